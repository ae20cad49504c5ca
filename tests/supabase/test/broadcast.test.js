// Broadcasts between Supabase's clients, old and new, at two gateways with Redis between them.

import assert from 'node:assert/strict';
import test from 'node:test';
import { Site } from '../../../clients/js/test/site.js';
import { auth, clients, end, follow, secret, token, until } from './clients.js';

/** A client that has joined a channel, and what it gets. */
async function member(t, make, http, config, options) {
  const client = make(http, options);
  t.after(() => end(client));
  const got = [];
  const channel = client.channel('room', { config }).on('broadcast', { event: 'cursor' }, (message) => got.push(message));
  const { statuses, errors } = follow(channel);
  await until(() => statuses.includes('SUBSCRIBED'), () => `it has joined: ${statuses} ${errors}`);
  return { channel, got };
}

test('each sends to all others, with and without self and ack, and over HTTP', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key)', 'orders');
  const [one, two] = site.gateways.map(({ http }) => http);
  const members = [];
  for (const make of Object.values(clients)) {
    members.push(await member(t, make, one, { broadcast: { self: true, ack: true } }));
    members.push(await member(t, make, two, { broadcast: { self: false, ack: false } }));
  }
  for (const [number, sender] of members.entries()) {
    const payload = { number, text: 'größer', nested: [1.5, null] };
    assert.equal(await sender.channel.send({ type: 'broadcast', event: 'cursor', payload }), 'ok');
    const self = number % 2 === 0;
    const others = members.filter((member) => self || member !== sender);
    await until(() => others.every(({ got }) => got.at(-1)?.payload.number === number), `what ${number} sends`);
    for (const { got } of others) assert.deepEqual({ ...got.at(-1) }, { type: 'broadcast', event: 'cursor', payload });
    // It is of another event.
    await sender.channel.send({ type: 'broadcast', event: 'other', payload: {} });
  }
  members.forEach(({ got }, number) => assert.equal(got.length, members.length - (number % 2)));

  // Over HTTP: by the client, before it has joined, and by hand.
  const outsider = clients['realtime-js'](two);
  t.after(() => end(outsider));
  const channel = outsider.channel('room');
  assert.deepEqual(await channel.httpSend('cursor', { number: 'http' }), { success: true });
  await until(() => members.every(({ got }) => got.at(-1).payload.number === 'http'));
  assert.equal(await channel.send({ type: 'broadcast', event: 'cursor', payload: { number: 'fallback' } }), 'ok');
  await until(() => members.every(({ got }) => got.at(-1).payload.number === 'fallback'));

  // Bytes, which only the newer ones can tell.
  const [bytes, [, , , , newest]] = [new Uint8Array([0, 255, 1]).buffer, members];
  await newest.channel.send({ type: 'broadcast', event: 'cursor', payload: bytes });
  await until(() => [0, 1, 4, 5, 6, 7].every((place) => members[place].got.at(-1).payload instanceof ArrayBuffer));
  assert.deepEqual(members[1].got.at(-1).payload, bytes);
  // And from the old one.
  await members[7].channel.send({ type: 'broadcast', event: 'cursor', payload: new Uint8Array([7]).buffer });
  await until(() => members[0].got.at(-1).payload.byteLength === 1);

  // They are not kept, and nobody waits for them: Redis goes and comes back.
  await site.redis.end('SIGKILL');
  assert.equal(await members[0].channel.send({ type: 'broadcast', event: 'cursor', payload: { number: 'lost' } }), 'error');
  await site.redis.start();
  await until(async () => {
    await members[0].channel.send({ type: 'broadcast', event: 'cursor', payload: { number: 'back' } });
    return members.every(({ got }) => got.at(-1).payload.number === 'back');
  }, 'it is back', 15_000);
});

test('a bus that hangs holds up nothing else that a client says', async (t) => {
  const site = await Site.start(t);
  await site.serve('create table orders (id bigint primary key)', 'orders');
  const { channel } = await member(t, clients['realtime-js'], site.gateways[0].http, { broadcast: { ack: true } });
  const send = () => channel.send({ type: 'broadcast', event: 'cursor', payload: {} });
  assert.equal(await send(), 'ok');
  const beats = [];
  channel.socket.onHeartbeat((status) => beats.push(status));
  process.kill(site.redis.child.pid, 'SIGSTOP');
  const sent = Array.from({ length: 20 }, send);
  await channel.socket.sendHeartbeat();
  await until(() => beats.includes('ok'), 'the heartbeat is answered', 1500);
  // Nobody knows what became of them.
  assert.deepEqual([...new Set(await Promise.all(sent))], ['error']);
  process.kill(site.redis.child.pid, 'SIGCONT');
  await until(async () => (await send()) === 'ok');
});

test('a token without the claim neither sends nor gets', async (t) => {
  const site = await Site.start(t, { config: auth, env: { JWT_SECRET: secret } });
  await site.serve('create table orders (id bigint primary key)', 'orders');
  const { http } = site.gateways[0];
  for (const [name, make] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      const client = make(http);
      t.after(() => end(client));
      await (client.realtime ?? client).setAuth(token(60));
      const { errors } = follow(client.channel('room'));
      await until(() => errors.length > 0);
      assert.match(errors[0], /^"?Unauthorized: the token's claim 'broadcast' does not cover 'room'/);
      const allowed = make(http);
      t.after(() => end(allowed));
      await (allowed.realtime ?? allowed).setAuth(token(60, { broadcast: ['room'] }));
      const got = [];
      const channel = allowed.channel('room', { config: { broadcast: { self: true } } }).on('broadcast', { event: '*' }, (message) => got.push(message));
      const { statuses } = follow(channel);
      await until(() => statuses.includes('SUBSCRIBED'));
      await channel.send({ type: 'broadcast', event: 'e', payload: { n: 1 } });
      await until(() => got.length === 1);
    });
  }
});
