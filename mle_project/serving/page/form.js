"use strict";
// The form of one record, made from the facts of the contract that stand in the page. It asks only the service that sent it.

const FACTS = JSON.parse(document.getElementById("facts").textContent);
const FIRST = 18; // fields of a group that are shown at once; the others unfold
const LONG_LIST = 30; // a longer list of categories is typed with suggestions instead of chosen
const SHOWN = 8; // classes and attributions that are shown at once
const inputs = new Map(); // by field name
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawing(...shapes) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" })) made.setAttribute(name, value);
  for (const [tag, attributes] of shapes) {
    const shape = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    made.append(shape);
  }
  return made;
}

// ---- the form

const chosen = (field) => field.type === "boolean" || (field.out_of_range === "reject" && field.categories.length > 0 && field.categories.length <= LONG_LIST);

function hint(field) {
  const [low, high] = field.range;
  const bound = low === null && high === null ? "" : low === null ? `At most ${high}.` : high === null ? `At least ${low}.` : `${low} to ${high}.`;
  const seen = field.low === null || field.low === undefined || field.type === "boolean" ? "" : `Trained on ${field.low} to ${field.high}.`;
  const outside = { as_missing: " Others count as missing.", warn: " Others are kept." }[field.out_of_range];
  const many = field.categories.length > LONG_LIST || !chosen(field) && field.categories.length ? `${field.categories.length} are known.` : "";
  return [field.description, bound || many ? (bound || many) + (outside || "") : "", seen].filter(Boolean).join(" ");
}

function step(field) {
  if (field.type === "integer") return 1;
  const width = field.high - field.low;
  return width > 0 ? 10 ** Math.floor(Math.log10(width / 100)) : "any";
}

function control(field, id) {
  const shared = { id, "aria-describedby": `${id}-error ${id}-hint`, "aria-required": field.nullable ? "false" : "true", autocomplete: "off" };
  if (chosen(field)) {
    const words = field.type === "boolean" ? ["true", "false"] : field.categories;
    const empty = element("option", { value: "" }, field.nullable ? "missing" : "choose one");
    return [element("select", shared, empty, ...words.map((word) => element("option", { value: word }, word)))];
  }
  const placeholder = field.nullable ? "missing" : "needed";
  if (field.type === "string" || field.type === "json") {
    const words = field.categories.length ? field.categories : field.values;
    const list = element("datalist", { id: `${id}-list` }, ...words.map((word) => element("option", { value: word })));
    return [element("input", { ...shared, type: "text", list: words.length ? `${id}-list` : null, placeholder }), list];
  }
  const [low, high] = field.out_of_range === "reject" ? field.range : [null, null];
  return [element("input", { ...shared, type: "number", inputmode: "decimal", min: low, max: high, step: step(field), placeholder })];
}

function entry(field, place) {
  const id = `field-${place}`;
  const [input, ...rest] = control(field, id);
  inputs.set(field.name, input);
  const line = element("div", { class: "entry" }, input, ...rest);
  if (field.nullable && !chosen(field)) {
    const clear = element("button", { type: "button", "aria-label": `Clear ${field.name}: the value is missing`, title: "missing" }, "×");
    clear.addEventListener("click", () => { input.value = ""; changed(); input.focus(); });
    line.append(clear);
  }
  const unit = field.unit ? element("span", { class: "unit" }, ` ${field.unit}`) : "";
  const error = element("p", { class: "error", id: `${id}-error` });
  const words = [field.name, field.description, field.unit].join(" ").toLowerCase();
  return element("div", { class: "field", "data-words": words }, element("label", { for: id }, field.name, unit), line, error, element("p", { class: "hint", id: `${id}-hint` }, hint(field)));
}

function group(title, fields) {
  const made = fields.map((field) => entry(field, FACTS.fields.indexOf(field)));
  const box = element("fieldset", {}, element("legend", {}, `${title}: ${fields.length === 1 ? "one field" : `${fields.length} fields, strongest first`}`), element("div", { class: "fields" }, ...made.slice(0, FIRST)));
  const more = made.slice(FIRST);
  if (more.length) box.append(element("details", {}, element("summary", {}, `${more.length} more that move the answer less`), element("div", { class: "fields" }, ...more)));
  return box;
}

function fill(what) {
  for (const field of FACTS.fields) {
    const value = what === "nothing" ? null : field[what];
    inputs.get(field.name).value = value === null || value === undefined ? "" : String(value);
  }
  complain([]);
  changed();
}

function jsonOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function valueOf(field) {
  const text = inputs.get(field.name).value;
  if (text === "") return null;
  if (field.type === "string") return text;
  if (field.type === "json") return jsonOf(text);
  return field.type === "boolean" ? text === "true" : Number(text);
}

function record() {
  const values = new Map(FACTS.fields.map((field) => [field.name, valueOf(field)]));
  return Object.fromEntries(FACTS.order.map((name) => [name, values.get(name)]));
}

const request = () => ({ [FACTS.list]: [record()] });

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const box of document.querySelectorAll(".field")) {
    box.hidden = !words.every((word) => box.dataset.words.includes(word));
    count += box.hidden ? 0 : 1;
  }
  for (const box of document.querySelectorAll("fieldset")) {
    box.hidden = !box.querySelector(".field:not([hidden])");
    const more = box.querySelector("details");
    if (more) {
      more.hidden = !more.querySelector(".field:not([hidden])");
      more.open = words.length > 0 && !more.hidden;
    }
  }
  byId("found").textContent = words.length ? `${count} of ${FACTS.fields.length} fields` : "";
}

// ---- what was wrong

function complain(details) {
  const said = new Map();
  const others = [];
  for (const { field, message } of details) {
    const name = String(field ?? "").split(".").slice(2).join(".");
    const named = (inputs.has(name) ? [name] : name.split(", ")).filter((one) => inputs.has(one)); // several columns may feed a feature
    named.forEach((one) => said.set(one, message));
    if (!named.length) others.push([field, message].filter(Boolean).join(": "));
  }
  for (const { name, nullable } of FACTS.fields) {
    const input = inputs.get(name);
    if (said.has(name) && !nullable && input.value === "" && !input.validity.badInput) said.set(name, "A value is needed here.");
    byId(`${input.id}-error`).textContent = said.get(name) ?? "";
    if (said.has(name)) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
  if (said.size) {
    byId("search").value = "";
    search();
    const first = FACTS.fields.map((field) => inputs.get(field.name)).find((input) => input.hasAttribute("aria-invalid"));
    document.querySelectorAll("[aria-invalid]").forEach((input) => { const more = input.closest("details"); if (more) more.open = true; });
    first.focus();
  }
  return others;
}

function refuse(status, error, retry) {
  const details = error.details ?? [];
  const others = complain(details);
  const named = details.length - others.length;
  const parts = [element("h2", {}, status ? `No answer (${status})` : "No answer")];
  const again = retry ? ` Try again in ${retry} s.` : "";
  const marked = `${named === 1 ? "One field is" : `${named} fields are`} not as the contract says; see the marks in the form.`;
  parts.push(element("p", { class: "alert", role: "alert" }, (named ? marked : error.message ?? "The service gave no message.") + again));
  if (others.length) parts.push(element("ul", {}, ...others.map((line) => element("li", {}, line))));
  if (error.request_id) parts.push(element("p", { class: "quiet" }, `Request ${error.request_id}`));
  byId("answer").replaceChildren(...parts);
  if (status === 401 || status === 403) {
    byId("key-row").hidden = false;
    byId("key").focus();
  }
}

// ---- the answer

const plain = (number) => new Intl.NumberFormat("en", { maximumSignificantDigits: 6 }).format(number);
const percent = (share) => `${new Intl.NumberFormat("en", { maximumFractionDigits: share < 0.01 ? 2 : 1 }).format(100 * share)} %`;
const inWords = (value) => (value === null || value === undefined ? "missing" : typeof value === "number" ? String(Number(value.toPrecision(7))) : String(value));
const unit = FACTS.unit ? ` ${FACTS.unit}` : "";

function classBars(shares) {
  const rows = Object.entries(shares).sort((one, other) => other[1] - one[1]);
  const shown = rows.slice(0, SHOWN).map(([label, share]) => element("tr", {}, element("th", { scope: "row" }, label),
    element("td", { class: "track" }, drawing(["rect", { class: "ground", width: 100, height: 10 }], ["rect", { class: "bar", width: 100 * share, height: 10 }])),
    element("td", { class: "number" }, percent(share))));
  const rest = rows.length > SHOWN ? [element("p", { class: "quiet" }, `${rows.length - SHOWN} more labels share ${percent(rows.slice(SHOWN).reduce((sum, row) => sum + row[1], 0))}.`)] : [];
  return [element("table", { class: "bars" }, element("caption", {}, "Probability of each label"), element("tbody", {}, ...shown)), ...rest];
}

function intervalPicture(found) {
  const width = found.high - found.low;
  if (!(width > 0)) return [];
  const at = (value) => 10 + 80 * (value - found.low) / width;
  const often = FACTS.coverage ? ` in ${percent(FACTS.coverage)} of cases` : "";
  const shapes = [["rect", { class: "ground", width: 100, height: 10 }], ["rect", { class: "bar", x: at(found.low), y: 3.5, width: 80, height: 3 }], ["rect", { class: "up", x: at(found.value) - 0.7, width: 1.4, height: 10 }]];
  return [drawing(...shapes), element("p", {}, `The true value lies between ${plain(found.low)} and ${plain(found.high)}${unit}${often}.`)];
}

function verdict(found) {
  if (FACTS.task === "regression") return [element("p", { class: "verdict" }, plain(found.value) + unit), ...intervalPicture(found)];
  const head = element("p", { class: "verdict" }, found.label);
  if (FACTS.task === "multiclass") return [head, ...classBars(found.probabilities)];
  const [no, yes] = FACTS.labels;
  const said = `The probability of “${yes}” is ${percent(found.probability)}; the answer is “${yes}” from ${percent(FACTS.threshold)} on.`;
  return [head, element("p", {}, said), ...classBars({ [yes]: found.probability, [no]: 1 - found.probability })];
}

function contributionInWords(contribution, largest) {
  const [size, most] = FACTS.task === "regression" ? [Math.abs(contribution), largest] : [100 * Math.abs(contribution), 100 * largest];
  const digits = Math.min(20, Math.max(0, 2 - Math.floor(Math.log10(most)))); // the largest has three digits, the others as many places
  const said = new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(size);
  return `${contribution > 0 ? "+" : "−"}${said}`;
}

function attributionBars(attributions, label) {
  const moving = attributions.filter((one) => one.contribution !== 0);
  const largest = Math.max(...moving.map((one) => Math.abs(one.contribution)), 0);
  if (!moving.length) return [element("p", { class: "quiet" }, "No single value moves this answer away from that of a record with typical values.")];
  const what = FACTS.task === "regression" ? `the value${unit ? `, in${unit}` : ""}` : `the probability of “${label}”, in percentage points`;
  const rows = moving.slice(0, SHOWN).map((one) => {
    const width = 48 * Math.abs(one.contribution) / largest;
    const bar = ["rect", { class: one.contribution > 0 ? "up" : "down", x: one.contribution > 0 ? 50 : 50 - width, width, height: 10 }];
    return element("tr", {}, element("th", { scope: "row" }, `${one.field} = ${inWords(one.value)}`), element("td", { class: "usual" }, inWords(one.typical)),
      element("td", { class: "track" }, drawing(bar, ["line", { x1: 50, x2: 50, y1: 0, y2: 10, "vector-effect": "non-scaling-stroke" }])), element("td", { class: "number" }, contributionInWords(one.contribution, largest)));
  });
  const caption = element("caption", {}, "What drove it", element("span", { class: "quiet" }, `How each value, against the typical one in its place, moved ${what}.`));
  const head = element("tr", {}, element("th", { scope: "col" }, "value"), element("th", { scope: "col", class: "usual" }, "typical"), element("td"), element("th", { scope: "col" }, "moved"));
  const rest = moving.length > SHOWN ? [element("p", { class: "quiet" }, `${moving.length - SHOWN} more fields moved it less.`)] : [];
  return [element("table", { class: "attributions" }, caption, element("thead", {}, head), element("tbody", {}, ...rows)), ...rest];
}

function show(content) {
  complain([]);
  const found = content.predictions[0];
  const label = FACTS.task === "binary" ? FACTS.labels[1] : found.label;
  const features = content.features ? content.features[0] : null; // of a request by key
  const basis = features ? [element("p", {}, `${features.key}${features.as_of ? `, with what was known at ${features.as_of.replace("T", " ")} UTC` : ""}`), ...showFeatures(content.records[0])] : [];
  const parts = [element("h2", {}, "The model says"), ...basis, ...verdict(found), ...attributionBars(content.attributions ?? [], label), element("p", { class: "quiet" }, `Model ${content.model.slice(0, 12)}`)];
  byId("answer").replaceChildren(...parts);
  if (matchMedia("(max-width: 56rem)").matches) byId("answer").scrollIntoView(); // there the answer stands below the form
}

function ask(event) {
  event.preventDefault();
  const unread = FACTS.fields.filter((field) => inputs.get(field.name).validity.badInput);
  if (unread.length) return refuse(0, { details: unread.map((field) => ({ field: `${FACTS.list}.0.${field.name}`, message: "This is no number." })) });
  send(request());
}

function askByKey(event) {
  event.preventDefault();
  const words = FACTS.keys.map((name, place) => byId(`key-${place}`).value.trim());
  send({ keys: [words.length === 1 ? words[0] : words] });
}

// The features that a key stands for: in the form where it has them, else in a list.
function showFeatures(record) {
  if (FACTS.list === "records") {
    for (const [name, value] of Object.entries(record)) inputs.get(name).value = value === null ? "" : String(value);
    changed();
    return [];
  }
  const lines = Object.entries(record).map(([name, value]) => element("li", {}, `${name} = ${inWords(value)}`));
  return [element("details", {}, element("summary", {}, "The features it rests on"), element("ul", {}, ...lines))];
}

async function send(body) {
  const headers = { "content-type": "application/json" };
  if (byId("key").value) headers.authorization = `Bearer ${byId("key").value}`;
  byId("ask").disabled = true;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const response = await fetch("explain", { method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(60000) });
    const content = await response.json().catch(() => ({}));
    if (response.ok) show(content);
    else refuse(response.status, content.error ?? {}, response.headers.get("retry-after"));
  } catch (error) {
    refuse(0, { message: `The service cannot be reached (${error.message}).` });
  } finally {
    byId("ask").disabled = false;
    byId("answer").removeAttribute("aria-busy");
  }
}

// ---- the same from a program

const url = () => new URL("predict", location.href).href;
const asks = () => !byId("key-row").hidden;

function curlText() {
  const body = JSON.stringify(request()).replaceAll("'", "'\\''");
  return `curl -s ${url()} -H 'content-type: application/json'${asks() ? " -H \"authorization: Bearer $API_KEY\"" : ""} -d '${body}'`;
}

const literal = (value) => (value === null ? "None" : value === true ? "True" : value === false ? "False" : typeof value === "object" ? `json.loads(${JSON.stringify(JSON.stringify(value))})` : JSON.stringify(value));

function pythonText() {
  const one = FACTS.list.slice(0, -1); // record or row
  const lines = Object.entries(record()).map(([name, value]) => `    ${literal(name)}: ${literal(value)},`);
  const key = asks() ? ", \"authorization\": f\"Bearer {os.environ['API_KEY']}\"" : "";
  return [`import json${asks() ? "\nimport os" : ""}`, "import urllib.request", "", `${one} = {`, ...lines, "}",
    `body = json.dumps({"${FACTS.list}": [${one}]}).encode()`, `headers = {"content-type": "application/json"${key}}`,
    `request = urllib.request.Request("${url()}", body, headers)`, "with urllib.request.urlopen(request, timeout=30) as answer:", "    print(json.load(answer)[\"predictions\"][0])"].join("\n");
}

function changed() {
  byId("curl").textContent = curlText();
  byId("python").textContent = pythonText();
  byId("copied").textContent = "";
}

async function copy(id) {
  changed();
  getSelection().selectAllChildren(byId(id)); // where a page may not write to the clipboard, Ctrl+C takes what is selected
  try {
    await navigator.clipboard.writeText(byId(id).textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("copied").textContent = "Selected; press Ctrl+C.";
  }
}

byId("groups").append(...[["Always needed", false], ["May be missing", true]]
  .map(([title, nullable]) => [title, FACTS.fields.filter((field) => field.nullable === nullable)])
  .filter(([, fields]) => fields.length).map(([title, fields]) => group(title, fields)));
document.querySelector("[data-fill=typical]").hidden = FACTS.list === "rows"; // what is typical is known of features
document.querySelector(".search").hidden = FACTS.fields.length <= 12;
document.querySelectorAll("[data-fill]").forEach((button) => button.addEventListener("click", () => fill(button.dataset.fill)));
document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button.dataset.copy)));
byId("search").addEventListener("input", search);
byId("record").addEventListener("submit", ask);
if (FACTS.keys.length) byId("by-key").addEventListener("submit", askByKey);
byId("record").addEventListener("input", changed);
new MutationObserver(changed).observe(byId("key-row"), { attributes: true });
fill("example");
