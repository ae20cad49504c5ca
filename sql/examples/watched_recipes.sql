-- Watched recipes: the tables of the sensors and the violations recipe, durable besides what their own triggers notify.
-- The dashboard in clients/js/examples subscribes to them: public.sensor_readings, public.violation_humandetections …
-- Can be run again. It needs the schema (rowcast install), sensors.sql and violations_one_channel.sql.

begin;
set local client_min_messages = warning; -- no notices about what is already watched

do $$
begin
  if to_regclass('rowcast.state') is null then
    raise warning 'the recipes'' tables are not watched yet: rowcast install, then run this file again';
  else
    perform rowcast.watch(name) from unnest(array[
      'sensor_readings', 'violation_humandetections', 'violation_lotodetections', 'violation_ppedetections'
    ]::regclass[]) name;
  end if;
end
$$;

commit;
