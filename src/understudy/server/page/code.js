// The request on screen as programs that can be run as they stand.

const isPlain = (value) => value !== null && typeof value === "object";

/** A JSON value as Python writes it. JSON's strings are Python's too. */
function python(value, depth = 0) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (!isPlain(value)) return JSON.stringify(value);
  const isList = Array.isArray(value);
  const parts = isList
    ? value.map((item) => python(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = open + parts.join(", ") + close;
  if (line.length <= 88 && !line.includes("\n")) return line;
  const pad = "    ".repeat(depth + 1);
  return `${open}\n${parts.map((part) => pad + part).join(",\n")},\n${"    ".repeat(depth)}${close}`;
}

const KNOWN = ["model", "messages", "temperature", "top_p", "max_tokens", "seed", "tools"];
const split = (request) => {
  const known = KNOWN.filter((name) => name in request).map((name) => [name, request[name]]);
  const extra = Object.entries(request).filter(([name]) => !KNOWN.includes(name));
  return [known, Object.fromEntries(extra)];
};

function openai(request, { base, hasKey }) {
  const [known, extra] = split(request);
  const given = known.map(([name, value]) => `    ${name}=${python(value, 1)},\n`).join("");
  const more = Object.keys(extra).length ? `    extra_body=${python(extra, 1)},\n` : "";
  const key = hasKey ? 'os.environ["UNDERSTUDY_API_KEY"]' : '"none"';
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})
stream = client.chat.completions.create(
${given}${more}    stream=True,
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
`;
}

/** ChatNVIDIA reads earlier calls from `additional_kwargs` alone. */
function asLangChain({ tool_calls, ...message }) {
  return tool_calls ? { ...message, additional_kwargs: { tool_calls } } : message;
}

function langchain(request, { base, hasKey }) {
  const own = ["model", "temperature", "top_p", "max_tokens", "seed"].filter((name) => name in request);
  const rest = Object.entries(request).filter(([name]) => name !== "messages" && !own.includes(name));
  const called = (name) => (name === "max_tokens" ? "max_completion_tokens" : name);
  const given = own.map((name) => `    ${called(name)}=${python(request[name])},\n`).join("");
  const more = rest.map(([name, value]) => `    ${name}=${python(value, 1)},\n`).join("");
  const key = hasKey ? 'os.environ["UNDERSTUDY_API_KEY"]' : '"none"';
  return `${hasKey ? "import os\n\n" : ""}from langchain_nvidia_ai_endpoints import ChatNVIDIA

model = ChatNVIDIA(
    base_url=${JSON.stringify(base)},
    api_key=${key},
${given})
messages = ${python(request.messages.map(asLangChain))}
stream = model.stream(
    messages,
${more})
for chunk in stream:
    print(chunk.content, end="", flush=True)
print()
`;
}

function javascript(request, { base, hasKey }) {
  const body = JSON.stringify({ ...request, stream: true }, null, 2);
  const key = hasKey ? "process.env.UNDERSTUDY_API_KEY" : '"none"';
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${key} });
const stream = await client.chat.completions.create(${body});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
process.stdout.write("\\n");
`;
}

function curl(request, { base, hasKey }) {
  const body = JSON.stringify({ ...request, stream: true }, null, 2);
  const key = hasKey ? ' \\\n  -H "Authorization: Bearer $UNDERSTUDY_API_KEY"' : "";
  return `curl -sN '${base}/chat/completions' \\
  -H 'Content-Type: application/json'${key} \\
  --data-binary @- <<'JSON'
${body}
JSON
`;
}

const WRITERS = { python: openai, langchain, javascript, curl };
const NOTES = {
  python: "pip install openai",
  langchain: "pip install langchain-nvidia-ai-endpoints",
  javascript: "npm install openai · save as line.mjs",
  curl: "for a POSIX shell",
};

export const note = (language) => NOTES[language];

/** A program that sends the request and prints the answer's words (curl: the events). */
export function program(language, request, options) {
  return WRITERS[language](request, options);
}
