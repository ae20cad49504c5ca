-- Takes everything away that sql/rowcast/ installs, the triggers on watched tables with it.
-- `rowcast uninstall` runs it; so does psql -f. It waits for those who use watched tables, and they for it.
drop schema if exists rowcast cascade;
