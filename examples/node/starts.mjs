// Starts an orchestration over plain AMQP and waits for its end.
//
//   npm install amqplib
//   node starts.mjs amqp://localhost HUB ORCHESTRATION ID '{"any": "JSON"}'
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [url, hub, name, id, input] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
const { queue: inbox } = await channel.assertQueue("", { exclusive: true });

const waiting = new Map();
await channel.consume(
  inbox,
  (message) => waiting.get(message.properties.correlationId)?.(JSON.parse(message.content)),
  { noAck: true },
);

function request(op) {
  return new Promise((resolve) => {
    const correlationId = randomUUID();
    waiting.set(correlationId, resolve);
    channel.sendToQueue(`${hub}.ingress`, Buffer.from(JSON.stringify(op)), {
      persistent: true,
      correlationId,
      replyTo: inbox,
    });
  });
}

const started = await request({ op: "start", name, id, input: JSON.parse(input) });
if (!started.ok) throw new Error(started.error.message);
let ended;
do {
  ended = await request({ op: "wait", id: started.id, timeout: 30 });
} while (ended.error?.type === "TimeoutError"); // it goes on: ask again
console.log(JSON.stringify(ended));
await connection.close();
