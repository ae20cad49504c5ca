//! What the processes of rowcast share: the settings file, logging, signals, systemd, and connections to PostgreSQL.
