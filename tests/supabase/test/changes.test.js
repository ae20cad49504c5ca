// The same story for each of Supabase's clients, against real gateways, with everything between them and the rows.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import WebSocket from 'ws';
import { Site } from '../../../clients/js/test/site.js';
import { auth, clients, end, follow, secret, token, until } from './clients.js';

const TABLES = `
  create table orders (id bigint primary key, total numeric, paid bool, tags text[], meta jsonb, at timestamp, note text);
  create table refunds (id int primary key);`;

test('rows of every kind, for every client', async (t) => {
  const site = await Site.start(t);
  await site.serve(TABLES, 'orders', 'refunds');
  for (const [name, make] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      const client = make(site.gateways[0].http);
      t.after(() => end(client));
      const got = { all: [], inserts: [], refunds: [], systems: [] };
      const channel = client
        .channel('floor')
        .on('postgres_changes', { event: '*', schema: 'public', table: 'orders' }, (payload) => got.all.push(payload))
        .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'orders' }, (payload) => got.inserts.push(payload))
        .on('postgres_changes', { event: 'DELETE', schema: 'public', table: 'refunds' }, (payload) => got.refunds.push(payload))
        .on('system', {}, (payload) => got.systems.push(payload));
      const others = [];
      const other = follow(client.channel('other').on('postgres_changes', { event: 'INSERT', schema: 'public' }, (payload) => others.push(payload.new.id)));
      await until(() => other.statuses.includes('SUBSCRIBED'));
      const { statuses, errors } = follow(channel);
      await until(() => got.systems.length === 1, () => `subscribed: ${statuses} ${errors}`);
      assert.deepEqual(got.systems, [{ extension: 'postgres_changes', status: 'ok', message: 'Subscribed to PostgreSQL', channel: 'floor' }]);
      assert.deepEqual(statuses, ['SUBSCRIBED']);

      const before = Date.now();
      await site.sql(`insert into orders values (1, 1.50, true, '{a,b}', '{"x": [1, "y"]}', '2026-01-02 03:04:05', null)`);
      await site.sql('insert into refunds values (7)');
      await site.sql(`update orders set total = 2, note = 'größer' where id = 1`);
      await site.sql('delete from refunds');
      await site.sql('delete from orders');
      await site.sql('truncate orders');
      await until(() => got.all.length === 4 && got.refunds.length === 1, () => JSON.stringify(got));

      const first = { id: 1, total: 1.5, paid: true, tags: ['a', 'b'], meta: { x: [1, 'y'] }, at: '2026-01-02T03:04:05', note: null };
      const second = { ...first, total: 2, note: 'größer' };
      const of = (eventType, rest, table = 'orders') => ({ schema: 'public', table, eventType, new: {}, old: {}, errors: null, ...rest });
      const stripped = (payloads) =>
        payloads.map(({ commit_timestamp, ...rest }) => {
          assert.match(commit_timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$/);
          assert.ok(Math.abs(Date.parse(commit_timestamp) - before) < 60_000, commit_timestamp);
          return rest;
        });
      const insert = of('INSERT', { new: first });
      assert.deepEqual(stripped(got.all), [insert, of('UPDATE', { new: second, old: first }), of('DELETE', { old: second }), of('TRUNCATE', {})]);
      assert.deepEqual(stripped(got.inserts), [insert]);
      assert.deepEqual(stripped(got.refunds), [of('DELETE', { old: { id: 7 } }, 'refunds')]);

      // It leaves, and what it is not there for does not come.
      assert.equal(await channel.unsubscribe(), 'ok');
      await site.sql('insert into orders values (2)');
      await until(() => others.includes(2));
      const again = [];
      const rejoined = client.channel('floor').on('postgres_changes', { event: '*', schema: 'public' }, (payload) => again.push(payload));
      const back = follow(rejoined);
      await until(() => back.statuses.includes('SUBSCRIBED'));
      await site.sql('insert into orders values (3)');
      await until(() => again.length > 0);
      assert.deepEqual(again.map((payload) => payload.new.id), [3]);
      assert.equal(got.all.length, 4);
      await site.sql('truncate orders');
      await until(() => again.at(-1).eventType === 'TRUNCATE');
    });
  }
});

test('the types of columns, on the wire', async (t) => {
  const site = await Site.start(t);
  const types = { id: 'int8', total: 'numeric', paid: 'bool', tags: '_text', meta: 'jsonb', at: 'timestamp', note: 'text' };
  await site.serve(TABLES, 'orders');
  const socket = new WebSocket(`${site.gateways[0].http.replace('http', 'ws')}/realtime/v1/websocket?vsn=2.0.0`);
  t.after(() => socket.terminate());
  const frames = [];
  socket.on('message', (text) => frames.push(JSON.parse(text)));
  await once(socket, 'open');
  const bindings = [{ event: '*', schema: 'public', table: 'orders' }];
  socket.send(JSON.stringify(['1', '1', 'realtime:floor', 'phx_join', { config: { postgres_changes: bindings } }]));
  await until(() => frames.some((frame) => frame[3] === 'system'));
  await site.sql('insert into orders values (1)');
  const change = await until(() => frames.find((frame) => frame[3] === 'postgres_changes'));
  assert.deepEqual(change[4].data.columns, Object.entries(types).map(([name, type]) => ({ name, type })));
});

test('what is not served is refused by its name, and tried again by the client', async (t) => {
  const site = await Site.start(t);
  await site.serve(TABLES, 'orders');
  for (const [name, make] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      const client = make(site.gateways[0].http);
      t.after(() => end(client));
      const of = (bind) => follow(bind(client.channel(`channel ${Math.random()}`)));
      const orders = { event: '*', schema: 'public', table: 'orders' };
      const filtered = of((channel) => channel.on('postgres_changes', { ...orders, filter: 'id=eq.1' }, () => {}));
      const unknown = of((channel) => channel.on('postgres_changes', { ...orders, table: 'ordres' }, () => {}));
      const present = of((channel) => channel.on('presence', { event: 'sync' }, () => {}));
      await until(() => [filtered, unknown, present].every(({ errors }) => errors.length >= 2), 'each is refused, and again', 10_000);
      // The old client quotes what it is told.
      assert.match(filtered.errors[0], /^"?Unsupported: 'filter' of a binding is not served/);
      assert.match(unknown.errors[0], /^"?UnknownTopic: no listener carries 'public.ordres'; there are: public.orders/);
      assert.match(present.errors[0], /^"?Unsupported: presence is not served/);
    });
  }
});

test('a token that ends closes its channels, and one that is renewed does not', async (t) => {
  const site = await Site.start(t, { config: auth, env: { JWT_SECRET: secret } });
  await site.serve(TABLES, 'orders', 'refunds');
  const bind = (client, got, table = 'orders') =>
    client.channel(`floor of ${table}`).on('postgres_changes', { event: '*', schema: 'public', table }, ({ new: row }) => got.push(row.id));

  for (const [name, make] of Object.entries(clients)) {
    await t.test(`${name}: ends`, async (t) => {
      const client = make(site.gateways[0].http);
      t.after(() => end(client));
      const realtime = client.realtime ?? client;
      await realtime.setAuth(token(3));
      const systems = [];
      const { statuses } = follow(bind(client, []).on('system', {}, (payload) => systems.push(payload)));
      await until(() => statuses.includes('CLOSED'), () => `it is closed: ${statuses}`, 10_000);
      assert.deepEqual(statuses, ['SUBSCRIBED', 'CLOSED']);
      assert.equal(systems.at(-1).status, 'error');
      assert.match(systems.at(-1).message, /the token has expired/);
    });
    await t.test(`${name}: is renewed`, async (t) => {
      const client = make(site.gateways[0].http, { accessToken: async () => token(60), heartbeatIntervalMs: 500 });
      t.after(() => end(client));
      const realtime = client.realtime ?? client;
      realtime.accessToken = async () => token(3);
      await realtime.setAuth();
      const got = [];
      const { statuses, errors } = follow(bind(client, got));
      await until(() => statuses.includes('SUBSCRIBED'), () => `${statuses} ${errors}`);
      await new Promise((resolve) => setTimeout(resolve, 6_000));
      await site.sql(`insert into orders values (${Math.floor(Math.random() * 1e9)})`);
      await until(() => got.length === 1);
      assert.deepEqual(statuses, ['SUBSCRIBED']);
    });
    await t.test(`${name}: does not cover, is none, is not good`, async (t) => {
      const made = () => {
        const client = make(site.gateways[0].http);
        t.after(() => end(client));
        return client;
      };
      const none = follow(bind(made(), []));
      await until(() => none.errors.length > 0);
      assert.match(none.errors[0], /^"?Unauthorized: no token came/);
      const bad = made();
      await (bad.realtime ?? bad).setAuth('not.a.token');
      const refused = follow(bind(bad, []));
      await until(() => refused.errors.length > 0);
      assert.match(refused.errors[0], /^"?Unauthorized: the token is not a JSON Web Token/);
      const client = made();
      const realtime = client.realtime ?? client;
      await realtime.setAuth(token(60));
      const other = follow(bind(client, [], 'refunds'));
      await until(() => other.errors.length > 0);
      assert.match(other.errors[0], /^"?Unauthorized: the token's claim 'topics' does not cover 'public.refunds'/);
      await realtime.setAuth(token(60, { topics: ['public.*'] }));
      await until(() => other.statuses.includes('SUBSCRIBED'), 'what it tries again is let in', 15_000);
    });
  }
});

test('who signs out has what the connection came with', async (t) => {
  const site = await Site.start(t, { config: auth, env: { JWT_SECRET: secret } });
  await site.serve('create table orders (id bigint primary key); create table refunds (id bigint primary key)', 'orders', 'refunds');
  for (const [name, make] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      let session = token(60, { topics: ['public.*'] });
      const key = token(60, { topics: ['public.orders'] });
      const client = make(site.gateways[0].http, { key, accessToken: async () => session });
      t.after(() => end(client));
      await (client.realtime ?? client).setAuth();
      const got = [];
      const open = (table, filter) => follow(client.channel(table).on('postgres_changes', { event: 'INSERT', ...filter }, (change) => got.push(`${table} ${change.table} ${change.new.id}`)));
      const [orders, refunds] = ['orders', 'refunds'].map((table) => open(table, { schema: 'public', table }));
      const all = open('all', { schema: 'public' });
      await until(() => [orders, refunds, all].every(({ statuses }) => statuses.includes('SUBSCRIBED')), () => JSON.stringify([orders, refunds, all]));
      // The old one joins with the token that it had before, if it has none any more.
      session = name.includes('2025') ? key : null;
      await (client.realtime ?? client).setAuth();
      await until(() => refunds.statuses.at(-1) === 'CLOSED');
      await until(() => all.statuses.join() === 'SUBSCRIBED,CHANNEL_ERROR,SUBSCRIBED', () => JSON.stringify(all));
      await site.sql('insert into refunds values (1); insert into orders values (2)');
      await until(() => got.length === 2, () => JSON.stringify([got, orders, refunds, all]));
      assert.deepEqual(got.sort(), ['all orders 2', 'orders orders 2']);
      assert.deepEqual(orders.statuses, ['SUBSCRIBED']);
      await site.sql('truncate orders, refunds');
    });
  }
});

test('a gateway that is killed, and comes back', async (t) => {
  const site = await Site.start(t);
  await site.serve(TABLES, 'orders');
  const [gateway] = site.gateways;
  let id = 0;
  for (const [name, make] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      const client = make(gateway.http);
      t.after(() => end(client));
      const got = [];
      const bind = (channel) => channel.on('postgres_changes', { event: '*', schema: 'public', table: 'orders' }, ({ new: row }) => got.push([channel.subTopic, row.id]));
      const plain = follow(bind(client.channel('plain')));
      const resuming = client.channel('resuming');
      const systems = [];
      bind(resuming).on('system', {}, (payload) => {
        systems.push(payload);
        if (payload.cursor) resuming.updateJoinPayload({ resume: payload.cursor });
      });
      resuming.updateJoinPayload({ resume: '' });
      const resumed = follow(resuming);
      const count = (statuses) => statuses.filter((status) => status === 'SUBSCRIBED').length;
      await until(() => count(plain.statuses) === 1 && count(resumed.statuses) === 1);
      const seen = ++id;
      await site.sql(`insert into orders values (${seen})`);
      await until(() => got.length === 2, () => JSON.stringify([got, orders, refunds, all]));
      await gateway.end('SIGKILL');
      const missed = ++id;
      await site.sql(`insert into orders values (${missed})`);
      await gateway.start();
      await until(() => count(plain.statuses) === 2 && count(resumed.statuses) === 2, () => `back: ${plain.statuses} / ${resumed.statuses}`, 20_000);
      const later = ++id;
      await site.sql(`insert into orders values (${later})`);
      await until(() => got.filter(([, id]) => id === later).length === 2);
      const of = (channel) => got.filter(([name]) => name === channel).map(([, id]) => id);
      // Who does not resume is told: it reports an error, and then that it is subscribed again.
      assert.deepEqual(plain.statuses, ['SUBSCRIBED', 'CHANNEL_ERROR', 'SUBSCRIBED']);
      assert.deepEqual(of('plain'), [seen, later]);
      assert.deepEqual(of('resuming'), [seen, missed, later]);
      assert.ok(systems.every(({ reset }) => !reset), JSON.stringify(systems));
    });
  }
});
