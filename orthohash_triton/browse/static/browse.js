// The page of `orthohash browse`. The search is part of the address (#id=17&k=24&class=3), so that back and reload work. An image
// of the user has no address and is kept in `uploaded`.
const at = (id) => document.getElementById(id);
const info = await ask("api/info");
let uploaded = null;
let newest = 0; // number of the latest request; answers to earlier ones are ignored

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The server does not respond. Is orthohash browse still running?");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- state ------------------------------------------------------------------------------------------------------------------

function wanted() {
  const given = new URLSearchParams(location.hash.slice(1));
  return { id: given.get("id"), k: given.get("k") ?? "24", classId: given.get("class") ?? "" };
}

function go(changes) {
  const next = { ...wanted(), ...changes };
  const address = new URLSearchParams();
  if (next.id !== null) address.set("id", next.id);
  address.set("k", next.k);
  if (next.classId) address.set("class", next.classId);
  if (`#${address}` === location.hash) return load();
  location.hash = address; // hashchange loads it
}

async function load() {
  const { id, k, classId } = wanted();
  at("k").value = k;
  at("k-shown").textContent = at("k").value;
  at("class").value = classId;
  const terms = new URLSearchParams({ k: at("k").value, ...(classId && { class: classId }) });
  const turn = ++newest;
  const inGrid = at("results").contains(document.activeElement);
  document.body.classList.add("busy");
  try {
    if (uploaded) {
      const type = uploaded.type.startsWith("image/") ? uploaded.type : "application/octet-stream";
      const found = await ask(`api/search?${terms}`, { method: "POST", body: uploaded, headers: { "content-type": type } });
      if (turn === newest) showFound(found, { name: uploaded.name || "Pasted image", about: "your image", source: uploadedAddress() });
    } else if (id !== null) {
      terms.set("id", id);
      const found = await ask(`api/search?${terms}`);
      if (turn === newest) showFound(found, { name: nameOf(found.query), about: aboutOf(found.query), source: addressOf(found.query) });
    } else {
      terms.set("count", terms.get("k"));
      const found = await ask(`api/random?${terms}`);
      if (turn === newest) showRandom(found.items);
    }
    if (turn !== newest) return;
    showError("");
    if (inGrid) at("results").querySelector("button")?.focus();
  } catch (error) {
    if (turn === newest) showError(error.message);
  } finally {
    if (turn === newest) document.body.classList.remove("busy");
  }
}

// ---- display ----------------------------------------------------------------------------------------------------------------

const nameOf = (item) => item.classes.join(", ") || item.file || (info.classes.length ? "no class" : `item ${item.id}`);
const aboutOf = (item) => [`gallery item ${item.id.toLocaleString("en")}`, nameOf(item) !== item.file && item.file].filter(Boolean).join(", ");
const addressOf = (item) => (info.pictures ? `api/image/${item.id}` : null);

let shownAddress = null;
function uploadedAddress() {
  if (shownAddress) URL.revokeObjectURL(shownAddress);
  return (shownAddress = URL.createObjectURL(uploaded));
}

function picture(source, words) {
  const blank = () => element("span", { className: "blank", textContent: words });
  if (!source) return blank();
  const image = element("img", { src: source, alt: words, loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 40));
  image.addEventListener("error", () => image.replaceWith(blank()));
  return image;
}

function tile(item) {
  const known = item.same_class !== undefined;
  const verdict = known ? (item.same_class ? "right" : "wrong") : "";
  const name = nameOf(item);
  const frame = element("span", { className: "picture" }, picture(addressOf(item), name));
  if (known) frame.append(element("span", { className: `mark ${verdict}`, textContent: item.same_class ? "✓" : "✗" }));
  const caption = element("span", { className: "caption" });
  if (item.distance !== undefined) caption.append(element("b", { textContent: item.distance }), " ");
  caption.append(name);
  const words = [name, item.distance !== undefined && `distance ${item.distance}`, known && (item.same_class ? "same class" : "another class")];
  const button = element("button", { type: "button", className: `tile ${verdict}`, title: aboutOf(item) }, frame, caption);
  button.setAttribute("aria-label", words.filter(Boolean).join(", "));
  button.addEventListener("click", () => { uploaded = null; go({ id: String(item.id) }); });
  return element("li", {}, button);
}

function showFound(found, query) {
  at("query").hidden = false;
  at("query-picture").replaceChildren(picture(query.source, query.name));
  at("query-name").textContent = query.name;
  at("query-about").textContent = query.about;
  at("results-name").textContent = "Nearest by Hamming distance";
  at("results").replaceChildren(...found.neighbours.map(tile));
  const counts = new Map();
  for (const name of found.neighbours.flatMap((item) => item.classes)) counts.set(name, (counts.get(name) ?? 0) + 1);
  const common = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 6);
  at("found-classes").replaceChildren(...common.map(([name, count]) => element("li", {}, name, element("b", { textContent: count }))));
  at("key").hidden = !found.neighbours.some((item) => item.same_class !== undefined);
  const { search, encode } = found.milliseconds;
  at("status").replaceChildren(
    `${found.neighbours.length} of ${info.gallery.toLocaleString("en")} in `, element("b", { textContent: `${search.toFixed(2)} ms` }),
    encode === undefined ? "" : ` (encoding: ${encode.toFixed(1)} ms)`);
  document.title = `${query.name} · ${info.title}`;
}

function showRandom(items) {
  at("query").hidden = at("key").hidden = true;
  at("results-name").textContent = "Select an image to search for";
  at("results").replaceChildren(...items.map(tile));
  at("status").textContent = `${items.length} random items of ${info.gallery.toLocaleString("en")}`;
  document.title = info.title;
}

function showError(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

// ---- images of the user -----------------------------------------------------------------------------------------------------

function upload(file) {
  if (!file || !info.takes_images) return;
  if (file.type && !file.type.startsWith("image/")) return showError(`${file.name} is not an image (${file.type}); choose a JPEG or PNG file.`);
  if (file.size > info.max_bytes) {
    return showError(`${file.name} has ${Math.ceil(file.size / 2 ** 20)} MiB; at most ${info.max_bytes / 2 ** 20} MiB are accepted. Choose a smaller image.`);
  }
  uploaded = file;
  go({ id: null });
}

at("file").addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
addEventListener("paste", (event) => upload([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").hidden = !info.takes_images; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").hidden = true; });
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  upload(event.dataTransfer.files[0]);
});

// ---- controls and keys ------------------------------------------------------------------------------------------------------

function back() {
  uploaded = null;
  go({ id: null });
}

let waiting;
at("k").addEventListener("input", () => {
  at("k-shown").textContent = at("k").value;
  clearTimeout(waiting);
  waiting = setTimeout(() => go({ k: at("k").value }), 120);
});
at("class").addEventListener("change", () => go({ classId: at("class").value }));
at("random").addEventListener("click", back);
at("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => { if (wanted().id !== null) uploaded = null; load(); });

function columns() {
  return getComputedStyle(at("results")).gridTemplateColumns.split(" ").length;
}

const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: () => columns() };
const keys = {
  "/": () => (info.classes.length ? at("class") : at("k")).focus(),
  r: back,
  u: () => info.takes_images && at("file").click(),
  Escape: back,
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select");
  if (field && event.key !== "Escape") return;
  const tiles = [...at("results").querySelectorAll("button")];
  if (event.key in steps) {
    const here = tiles.indexOf(document.activeElement);
    const next = here < 0 ? 0 : here + steps[event.key]();
    if (next < 0 || next >= tiles.length) return;
    event.preventDefault();
    tiles[next].focus();
  } else if (event.key in keys) {
    event.preventDefault();
    if (field) return field.blur();
    keys[event.key]();
  }
});

// ---- start ------------------------------------------------------------------------------------------------------------------

at("title").textContent = info.title;
at("about").textContent = `${info.dataset}, ${info.gallery.toLocaleString("en")} gallery items`;
at("k").max = info.max_k;
at("class-label").hidden = !info.classes.length;
at("class").append(...info.classes.map(({ id, name, count }) => element("option", { value: id, textContent: `${name} (${count.toLocaleString("en")})` })));
at("upload").hidden = at("upload-hint").hidden = !info.takes_images;
await load();
