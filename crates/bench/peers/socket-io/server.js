// socket.io over WebSocket alone, and a Redis channel whose messages are emitted to everybody.
// node server.js PORT REDIS_PORT
import { createServer } from "node:http";
import Redis from "ioredis";
import { Server } from "socket.io";

const [port, redisPort] = process.argv.slice(2).map(Number);
const http = createServer();
// Its pings would have to be answered: none comes within a run.
const io = new Server(http, { transports: ["websocket"], serveClient: false, pingInterval: 3_600_000 });

const redis = new Redis(redisPort, "127.0.0.1");
await redis.subscribe("sensor_updates");
redis.on("message", (_channel, message) => io.emit("sensor_update", JSON.parse(message)));

http.listen({ host: "127.0.0.1", port, backlog: 4096 });
