// Stands in for your application's API: GET /tables/NAME answers with the rows as they are committed now. It has no
// cache and asks no replica, or a change could be missed between the load and the subscription.

import postgres from 'postgres';

const TABLES = ['sensor_readings', 'violation_humandetections', 'violation_lotodetections', 'violation_ppedetections'];

/** A plugin of Vite, for `dev` and `preview`. @param {string | undefined} databaseUrl */
export function tables(databaseUrl) {
  const sql = databaseUrl ? postgres(databaseUrl, { max: 4, connect_timeout: 5, onnotice: () => {} }) : undefined;

  /** @param {string} table */
  async function read(table) {
    if (!TABLES.includes(table)) return [404, { error: `there is no table '${table}' here; there are: ${TABLES.join(', ')}` }];
    if (!sql) return [503, { error: 'DATABASE_URL is not set: npm run dev needs it, as postgres://user:password@host/database' }];
    // As PostgreSQL writes JSON, because changes come the same way.
    const [{ rows }] = await sql`select coalesce(json_agg(t order by id), '[]')::text as rows from ${sql(table)} t`;
    return [200, rows];
  }

  /** @param {import('vite').ViteDevServer | import('vite').PreviewServer} server */
  function serve({ middlewares }) {
    middlewares.use('/tables/', async (request, response) => {
      const table = (request.url ?? '').slice(1).split('?')[0];
      const [status, body] = await read(table).catch((error) => [503, { error: String(error) }]);
      response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    });
  }
  return { name: 'tables', configureServer: serve, configurePreviewServer: serve };
}
