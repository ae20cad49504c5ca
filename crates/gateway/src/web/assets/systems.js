// The three systems of sql/examples, as this page shows them: how a change reads, what the button
// writes, and the line of SQL that does the same.

const pick = (list) => list[Math.floor(Math.random() * list.length)];
const two = (number) => String(number).padStart(2, '0');
const NAMES = ['Ada Lovelace', 'Grace Hopper', 'Edsger Dijkstra', 'Barbara Liskov', 'Alan Turing', 'Frances Allen', 'Radia Perlman', 'Niklaus Wirth'];
const ROOMS = { sensor1: 'room 1', sensor2: 'cold store', sensor3: 'roof' };
const values = { sensor1: 21.5, sensor2: 4.2, sensor3: 15.1 };

export const SYSTEMS = [
  {
    id: 'violations',
    title: 'Violations',
    topic: 'human_detection_events',
    path: '/api/violations/',
    button: 'Write a violation',
    example: 'violations_one_table.sql',
    sql: "insert into violation_humandetections(camera_id) values (2);",
    sample() {
      const now = new Date();
      const camera_id = 1 + Math.floor(Math.random() * 12);
      const date = `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
      const time = `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`;
      return { camera_id, violation_date: date, violation_time: time, violation_image: `/media/camera-${camera_id}/${time.replaceAll(':', '')}.jpg` };
    },
    row: (data) => data?.data,
    describe({ op, data }) {
      return {
        op,
        title: `Camera ${data.camera_id}`,
        detail: [data.violation_date, data.violation_time, data.violation_image],
      };
    },
    isAlarm: (data) => data?.op === 'INSERT',
  },
  {
    id: 'profiles',
    title: 'Database changes',
    topic: 'db_changes',
    path: '/api/profiles/',
    button: 'Write a profile',
    example: 'db_changes.sql',
    sql: "insert into profiles(full_name, email) values ('Ada Lovelace', 'ada@example.com');",
    sample() {
      const full_name = pick(NAMES);
      return { full_name, email: `${full_name.split(' ')[0].toLowerCase()}@example.com` };
    },
    row: (data) => (data?.table === 'profiles' && data.operation === 'INSERT' ? data.data : undefined),
    describe({ table, operation, data }) {
      return {
        op: operation,
        title: data.full_name ?? data.name ?? data.event ?? `${table} ${data.id}`,
        detail: [`${table} ${data.id}`, data.email, data.profile_id !== undefined && `profile ${data.profile_id}`],
      };
    },
  },
  {
    id: 'sensors',
    title: 'Sensors',
    topic: 'sensor_updates',
    path: '/api/sensors/',
    button: 'Write a reading',
    example: 'sensors.sql',
    sql: "insert into sensor_readings(sensor_id, value) values ('sensor1', 25.5);",
    sample() {
      const sensor_id = pick(Object.keys(ROOMS));
      values[sensor_id] = Math.round((values[sensor_id] + Math.random() * 2 - 1) * 10) / 10;
      return { sensor_id, value: values[sensor_id], metadata: { unit: 'celsius', location: ROOMS[sensor_id] } };
    },
    row: (data) => data ?? undefined,
    describe({ sensor_id, value, metadata, id }) {
      const unit = metadata?.unit === 'celsius' ? ' °C' : metadata?.unit ? ` ${metadata.unit}` : '';
      return { title: sensor_id, figure: `${value}${unit}`, detail: [`reading ${id}`, metadata?.location] };
    },
  },
];

/** What a change says in a line. A payload of another shape is shown as it is. */
export function describe(system, data) {
  const row = system.row(data) ?? data?.data;
  if (row !== null && typeof row === 'object') {
    const { op, title, figure, detail } = system.describe(data);
    if (title !== undefined) return { op: op && String(op).toLowerCase(), title, figure, detail: detail.filter(Boolean) };
  }
  return { title: typeof data === 'string' ? data : JSON.stringify(data), detail: ['not a row of this system'] };
}
