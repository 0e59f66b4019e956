// Serves an activity over plain AMQP. Start as many as you like; kill them whenever you like.
//
//   npm install amqplib
//   node serves.mjs amqp://localhost HUB QUEUE
import amqp from "amqplib";

const [url, hub, queue, slowness = "0"] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
await channel.prefetch(10);

const activities = {
  greet: async ({ name }) => `Hello ${name}, says Node`,
  fail: async () => {
    throw new RangeError("too much");
  },
};

await channel.consume(`${hub}.activities.json.${queue}`, async (message) => {
  const call = JSON.parse(message.content);
  console.log(`began ${call.activity}`);
  await new Promise((resolve) => setTimeout(resolve, Number(slowness)));
  const answer = { op: "result", token: call.token };
  try {
    answer.result = await activities[call.activity](call.input);
  } catch (error) {
    answer.error = { type: error.name, message: error.message };
  }
  // The result first, the ack after its confirm: whoever dies in between leaves the call to another.
  channel.sendToQueue(message.properties.replyTo, Buffer.from(JSON.stringify(answer)), { persistent: true });
  await channel.waitForConfirms();
  channel.ack(message);
});
console.log("ready");
