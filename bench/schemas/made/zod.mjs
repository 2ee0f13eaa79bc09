// Prints what zod 4's toJSONSchema writes, a line of JSON per construct: node zod.mjs > zod.jsonl
// Run a copy where zod is installed (npm install zod@4). tests/text/made_schemas.jsonl holds these lines, and
// those of pydantic_constructs.py.
import { z } from "zod";

const point = z.object({ x: z.number(), y: z.number() });
const tree = z.object({ value: z.string(), get children() { return z.array(tree); } });
const cat = z.object({ kind: z.literal("cat"), lives: z.int() });
const dog = z.object({ kind: z.literal("dog"), good: z.boolean() });

const constructs = {
  string: z.string(), number: z.number(), boolean: z.boolean(), null: z.null(), any: z.any(), unknown: z.unknown(),
  int: z.int(), int32: z.int32(), uint32: z.uint32(), float32: z.float32(), positive: z.number().positive(),
  range: z.number().min(0).lt(10), step: z.number().multipleOf(0.5), lengths: z.string().min(1).max(20),
  regex: z.string().regex(/^[a-z]+-\d{2}$/), startsWith: z.string().startsWith("id_"),
  endsWith: z.string().endsWith(".py"), includes: z.string().includes("/"), lowercase: z.string().lowercase(),
  email: z.email(), url: z.url(), uuid: z.uuid(), cuid: z.cuid(), cuid2: z.cuid2(), ulid: z.ulid(),
  nanoid: z.nanoid(), ksuid: z.ksuid(), xid: z.xid(), guid: z.guid(), jwt: z.jwt(), e164: z.e164(),
  emoji: z.emoji(), base64: z.base64(), base64url: z.base64url(), ipv4: z.ipv4(), ipv6: z.ipv6(),
  cidrv4: z.cidrv4(), cidrv6: z.cidrv6(), hostname: z.hostname(), hex: z.hex(), hash: z.hash("sha256"),
  date: z.iso.date(), time: z.iso.time(), datetime: z.iso.datetime(), datetimeOffset: z.iso.datetime({ offset: true }),
  duration: z.iso.duration(), templateLiteral: z.templateLiteral(["v", z.int(), ".", z.int()]),
  stringbool: z.stringbool(), enum: z.enum(["a", "b"]), literal: z.literal("x"), literals: z.literal([1, "x", null]),
  object: point, strictObject: z.strictObject({ a: z.string() }), looseObject: z.looseObject({ a: z.string() }),
  catchall: z.object({ a: z.string() }).catchall(z.number()), optional: z.object({ a: z.string().optional() }),
  default: z.object({ a: z.string().default("x"), b: z.int().prefault(3) }), nullable: z.string().nullable(),
  nullish: z.object({ a: point.nullish() }), partial: point.partial(), array: z.array(point),
  arrayLengths: z.array(z.string()).min(1).max(5), nonempty: z.array(z.int()).nonempty(),
  tuple: z.tuple([z.string(), z.number()]), tupleRest: z.tuple([z.string()], z.boolean()),
  record: z.record(z.string(), z.number()), recordEnum: z.record(z.enum(["a", "b"]), z.number()),
  partialRecord: z.partialRecord(z.enum(["a", "b"]), z.number()), recordInt: z.record(z.number(), z.string()),
  recordPattern: z.record(z.string().regex(/^x_/), z.boolean()), looseRecord: z.looseRecord(z.string().regex(/^x_/), z.int()),
  recordMin: z.record(z.string().min(1), z.int()), recordEmail: z.record(z.email(), z.int()),
  union: z.union([z.string(), z.number()]), unionObjects: z.union([cat, dog]),
  discriminatedUnion: z.discriminatedUnion("kind", [cat, dog]), xor: z.xor([z.string(), z.number()]),
  xorObjects: z.xor([cat, dog]), intersection: z.intersection(point, z.object({ z: z.number() })),
  extend: point.extend({ label: z.string() }), recursive: tree, lazy: z.lazy(() => point), json: z.json(),
  readonly: z.array(z.string()).readonly(), brand: z.string().brand("Id"), catch: z.object({ a: z.int().catch(1) }),
  pipe: z.pipe(z.string(), z.transform((text) => text.length)).pipe(z.number()), coerce: z.coerce.number(),
  codec: z.codec(z.iso.datetime(), z.date(), { decode: (s) => new Date(s), encode: (d) => d.toISOString() }),
  never: z.object({ a: z.never().optional() }), file: z.object({ a: z.string().meta({ contentEncoding: "base64" }) }),
  refine: z.string().refine((text) => text.length > 3), described: z.string().describe("d").meta({ examples: ["a"] }),
  reused: z.object({ a: point, b: point }), keyof: point.keyof(), nonoptional: z.nonoptional(z.string().optional()),
};

for (const [name, schema] of Object.entries(constructs)) {
  const seen = new Set();
  for (const target of ["draft-2020-12", "draft-07", "draft-04", "openapi-3.0"]) {
    for (const io of ["input", "output"]) {
      for (const reused of name === "reused" ? ["inline", "ref"] : ["inline"]) {
        try {
          const { $schema, ...made } = z.toJSONSchema(schema, { target, io, reused });
          const text = JSON.stringify(made);
          const written = $schema === undefined ? made : { $schema, ...made };
          if (!seen.has(text)) console.log(JSON.stringify({ name: `zod ${name}, ${target}, ${io}`, schema: written }));
          seen.add(text);
        } catch (error) {
          console.error(`${name}, ${target}, ${io}: ${error.message}`); // has no JSON Schema
        }
      }
    }
  }
}
