// Print the logits that transformers.js gives for pairs, with a bundle opened as it lies, and the model's inputs.
//
//   node transformers_js.mjs BUNDLE DTYPE PAIRS.json
//
// Lies beside a node_modules with @huggingface/transformers when it runs.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const [bundle, dtype, file] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const tokenizer = await AutoTokenizer.from_pretrained(basename(bundle));
const model = await AutoModelForSequenceClassification.from_pretrained(basename(bundle), { dtype, device: "cpu" });
const logits = [];
for (const [query, passage] of JSON.parse(readFileSync(file, "utf8"))) {
  const inputs = await tokenizer([query], { text_pair: [passage], padding: true, truncation: true });
  logits.push((await model(inputs)).logits.tolist()[0]);
}
console.log(JSON.stringify(logits));
