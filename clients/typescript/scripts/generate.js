// Writes src/generated.ts: the types of the platform's documents (`rideshare api openapi`, `rideshare api asyncapi`), without dependencies.
//
//   node scripts/generate.js [--check] [--openapi FILE --asyncapi FILE]
//
//   --check              writes nothing; status 1 if src/generated.ts is not what it would write
//   --openapi, …         these documents; otherwise RIDESHARE, or target/debug/rideshare, prints them; status 3 if it cannot
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const TARGET = here("../src/generated.ts");

function argument(name) {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

function documentOf(kind) {
  const file = argument(`--${kind}`);
  if (file) return JSON.parse(readFileSync(file, "utf8"));
  const program = process.env.RIDESHARE ?? here("../../../target/debug/rideshare");
  try {
    if (!existsSync(program)) throw new Error(`${program} is missing`);
    return JSON.parse(execFileSync(program, ["api", kind], { encoding: "utf8", maxBuffer: 1 << 26, stdio: ["ignore", "pipe", "ignore"] }));
  } catch (error) {
    console.error(`${program} does not print the document ${kind}: ${error.message.split("\n")[0]}`);
    process.exit(3);
  }
}

const openapi = documentOf("openapi");
const asyncapi = documentOf("asyncapi");

// --- schemas ----------------------------------------------------------------------------------------------------------

const schemas = { ...asyncapi.components.schemas };
for (const [name, schema] of Object.entries(openapi.components.schemas)) {
  if (name in schemas && JSON.stringify(schemas[name]) !== JSON.stringify(schema)) {
    throw new Error(`the two documents differ about the schema ${name}`);
  }
  schemas[name] = schema;
}

const used = new Set();
const waiting = [];

function reference(ref) {
  const name = ref.split("/").at(-1);
  if (!(name in schemas)) throw new Error(`there is no schema ${ref}`);
  if (!used.has(name)) {
    used.add(name);
    waiting.push(name);
  }
  return name;
}

const unique = (parts) => [...new Set(parts)];
const union = (parts) => (unique(parts).length > 0 ? unique(parts).join(" | ") : "never");
const wrapped = (type) => (/[|&]/.test(type.replace(/\{.*\}/gs, "")) ? `(${type})` : type);

/** The TypeScript type of a JSON Schema (2020-12). What the language cannot say, such as a range, is left out. */
function typeOf(schema, indent) {
  if (schema === true || schema === undefined || Object.keys(schema).length === 0) return "unknown";
  if (schema.$ref) return reference(schema.$ref);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const parts = [];
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) parts.push(union(alternatives.map((one) => typeOf(one, indent))));
  if (schema.allOf) parts.push(...schema.allOf.map((one) => typeOf(one, indent)));
  const kinds = schema.type === undefined ? (schema.properties || schema.required ? ["object"] : []) : [schema.type].flat();
  if (kinds.length > 0) parts.push(union(kinds.map((kind) => kindOf(kind, schema, indent))));
  if (parts.length === 0) return "unknown";
  return parts.length === 1 ? parts[0] : unique(parts.map(wrapped)).join(" & ");
}

function kindOf(kind, schema, indent) {
  switch (kind) {
    case "string":
    case "boolean":
    case "null":
      return kind;
    case "integer":
    case "number":
      return "number";
    case "array":
      if (schema.prefixItems) return `[${schema.prefixItems.map((item) => typeOf(item, indent)).join(", ")}]`;
      return `${wrapped(typeOf(schema.items, indent))}[]`;
    case "object":
      return objectOf(schema, indent);
    default:
      throw new Error(`no type of JSON: ${kind}`);
  }
}

function objectOf(schema, indent) {
  const properties = schema.properties ?? {};
  const required = new Set(schema.required ?? []);
  const inner = `${indent}  `;
  const lines = [];
  for (const [name, property] of Object.entries(properties)) {
    lines.push(...comment(property.description, inner));
    lines.push(`${inner}${key(name)}${required.has(name) ? "" : "?"}: ${typeOf(property, inner)};`);
  }
  // Required here, and described by another part of an allOf: not left out, though perhaps null.
  for (const name of required) if (!(name in properties)) lines.push(`${inner}${key(name)}: {} | null;`);
  const more = schema.additionalProperties;
  if (more && typeof more === "object") {
    const values = typeOf(more, inner);
    return lines.length === 0 ? `Record<string, ${values}>` : `${block(lines, indent)} & Record<string, unknown>`;
  }
  return lines.length === 0 ? "Record<string, unknown>" : block(lines, indent);
}

const block = (lines, indent) => `{\n${lines.join("\n")}\n${indent}}`;
const key = (name) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name));

function comment(text, indent) {
  if (!text) return [];
  return [`${indent}/** ${text.replaceAll("*/", "* /").replaceAll(/\s+/g, " ").trim()} */`];
}

// --- frames -----------------------------------------------------------------------------------------------------------

/** The frames of the socket: `[name, type of data, summary]`. */
function frames(prefix, wanted) {
  return Object.entries(asyncapi.components.messages)
    .filter(([name, { payload }]) => name.startsWith(prefix) && payload.properties?.type?.const && payload.properties.data && wanted(payload.properties))
    .map(([, { payload, summary }]) => [payload.properties.type.const, typeOf(payload.properties.data, "  "), summary])
    .sort(([a], [b]) => (a < b ? -1 : 1));
}

function map(name, description, entries) {
  const lines = entries.flatMap(([entry, type, summary]) => [...comment(summary, "  "), `  ${JSON.stringify(entry)}: ${type};`]);
  return [...comment(description, ""), `export interface ${name} {`, ...lines, "}", ""];
}

// --- routes -----------------------------------------------------------------------------------------------------------

const JSON_TYPE = "application/json";

function routes() {
  const found = [];
  for (const [path, operations] of Object.entries(openapi.paths)) {
    // A client's: not the operators', and not the socket.
    if (!path.startsWith("/v1/") || path === "/v1/ws") continue;
    for (const [method, operation] of Object.entries(operations)) {
      const parameters = operation.parameters ?? [];
      const fields = (place) => {
        const own = parameters.filter((parameter) => parameter.in === place);
        const properties = Object.fromEntries(own.map(({ name, schema, description }) => [name, { ...schema, description }]));
        const required = own.filter((parameter) => parameter.required).map(({ name }) => name);
        return own.length === 0 ? "never" : objectOf({ properties, required }, "    ");
      };
      const body = operation.requestBody?.content?.[JSON_TYPE]?.schema;
      const [, success] = Object.entries(operation.responses).find(([status]) => status.startsWith("2")) ?? [];
      const answer = success?.content?.[JSON_TYPE]?.schema;
      const type = block(
        [
          `    path: ${fields("path")};`,
          `    query: ${fields("query")};`,
          `    body: ${body ? typeOf(body, "    ") : "never"};`,
          `    answer: ${answer ? typeOf(answer, "    ") : "undefined"};`,
        ],
        "  ",
      );
      found.push([`${method.toUpperCase()} ${path}`, type, operation.summary]);
    }
  }
  return found.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** Every code that an error frame or a problem may have. */
function codes() {
  const found = new Set();
  const visit = (value, name) => {
    if (Array.isArray(value)) value.forEach((item) => visit(item, name));
    else if (value && typeof value === "object") {
      if (name === "code" && Array.isArray(value.enum)) value.enum.forEach((code) => found.add(code));
      for (const [inner, child] of Object.entries(value)) visit(child, inner);
    }
  };
  visit(openapi.paths);
  visit(openapi.components.responses);
  visit(asyncapi.components.messages["frame.error"]);
  return [...found].sort();
}

// --- the file ---------------------------------------------------------------------------------------------------------

const parts = [
  ...map("Commands", "What a client sends over the socket: the `data` of each type.", frames("command.", () => true)),
  ...map("Events", "The events of a user's mailbox, which have a `seq`: the `data` of each type.", frames("frame.", ({ seq }) => seq)),
  ...map("Frames", "What else the server sends: the `data` of each type.", frames("frame.", ({ seq, id }) => !seq && !id)),
  ...map("Routes", "The routes of HTTP.", routes()),
  "/** Why a frame or a request is refused. A later platform may have more. */",
  `export type ErrorCode =\n${codes()
    .map((code) => `  | ${JSON.stringify(code)}`)
    .join("\n")};`,
  "",
];
// What the library itself reads.
for (const name of ["RefreshAck", "BeaconAck", "SearchAck", "PositionsAck", "OfferAck", "RideAck", "MailboxAcked", "SignedInTokens"]) reference(name);
const declared = [];
while (waiting.length > 0) {
  const name = waiting.shift();
  const schema = schemas[name];
  declared.push([name, [...comment(schema.description, ""), `export type ${name} = ${typeOf(schema, "")};`, ""].join("\n")]);
}
declared.sort(([a], [b]) => (a < b ? -1 : 1));
const text = [
  "// Written by scripts/generate.js from the platform's OpenAPI and AsyncAPI documents: do not edit.",
  "",
  ...parts,
  ...declared.map(([, type]) => type),
].join("\n");

if (process.argv.includes("--check")) {
  if (!existsSync(TARGET) || readFileSync(TARGET, "utf8") !== text) {
    console.error("src/generated.ts is not what the documents say: npm run generate");
    process.exit(1);
  }
} else {
  writeFileSync(TARGET, text);
}
