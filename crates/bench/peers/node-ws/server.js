// What is written by hand most often: `ws`, and a Redis channel whose messages go to everybody.
// node server.js PORT REDIS_PORT
import Redis from "ioredis";
import { WebSocketServer, WebSocket } from "ws";

const [port, redisPort] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096 });

const redis = new Redis(redisPort, "127.0.0.1");
await redis.subscribe("sensor_updates");
redis.on("message", (_channel, message) => {
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(message);
  }
});
