// Plays one conversation with tools and prints what came of it: node run_tools.mjs BASE_URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "-", maxRetries: 0 });
const opened = [];
const openGate = {
  type: "function",
  function: {
    name: "open_gate",
    description: "Open a gate.",
    parameters: { type: "object", properties: { side: { type: "string" } }, required: ["side"] },
    parse: JSON.parse,
    function: ({ side }) => (opened.push(side), `the ${side} gate is open`),
  },
};
const answers = [];
for (const stream of [false, true]) {
  const pieces = [];
  const runner = client.chat.completions
    .runTools({ model: "harrow", messages: [{ role: "user", content: "Open both." }], tools: [openGate], stream })
    .on("chunk", ({ choices: [choice] }) =>
      pieces.push(...(choice?.delta.tool_calls ?? []).map((part) => part.function.arguments)));
  const content = await runner.finalContent();
  const roles = runner.messages.map((message) => message.role);
  answers.push({ stream, content, roles, pieces: pieces.length });
}
console.log(JSON.stringify({ opened, answers }));
