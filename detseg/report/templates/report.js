const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const TRUE = 0, FALSE = 1;
let threshold = data.threshold ?? 0.5;

function element(name, attributes = {}, text) {
  const one = document.createElementNS(SVG, name);
  for (const key in attributes) one.setAttribute(key, attributes[key]);
  if (text !== undefined) one.textContent = text;
  return one;
}

function html(name, text, parent) {
  const one = document.createElement(name);
  if (text !== undefined) one.textContent = text;
  if (parent) parent.append(one);
  return one;
}

// The part of an image around the highlighted boxes, at least half of each side.
function crop(image, boxes) {
  if (!boxes.length) return [0, 0, image.width, image.height];
  const low = [0, 1].map(i => Math.min(...boxes.map(box => box[i])));
  const high = [2, 3].map(i => Math.max(...boxes.map(box => box[i])));
  return [image.width, image.height].map((most, i) => {
    const side = Math.min(most, Math.max(1.6 * (high[i] - low[i]), most / 2));
    return [Math.max(0, Math.min(most - side, (low[i] + high[i] - side) / 2)), side];
  }).reduce((window, [start, side]) => [window[0].concat(start), window[1].concat(side)], [[], []]).flat();
}

// A box with its mask; the tag of a label lies below the box, that of a detection above.
function shape(svg, kind, one, main, text, isLabel) {
  const [x1, y1, x2, y2] = one.box;
  const group = element("g", {class: "shape"});
  if (one.path) group.append(element("path", {d: one.path, class: "mask " + kind}));
  group.append(element("rect", {x: x1, y: y1, width: Math.max(1, x2 - x1), height: Math.max(1, y2 - y1), class: kind + (main ? " main" : "")}));
  group.append(element("text", {"data-x": x1 + 2, "data-y": isLabel ? y2 : y1, "data-lines": isLabel ? 1 : -0.25, class: "tag" + (main ? " main" : "")}, text));
  svg.append(group);
  return group;
}

// Show a part of an image with a text size of one of so many lines; all text lies inside the part.
function show(svg, part, lines) {
  const size = Math.min(part[2], part[3]) / lines;  // in pixels of the image, whatever their number
  svg.setAttribute("viewBox", part.join(" "));
  svg.style.fontSize = size + "px";
  for (const tag of svg.querySelectorAll("text")) {
    const y = Number(tag.dataset.y) + tag.dataset.lines * size;
    tag.setAttribute("x", Math.max(part[0], Math.min(tag.dataset.x, part[0] + part[2] - 0.6 * size * tag.textContent.length)));
    tag.setAttribute("y", Math.max(part[1] + size, Math.min(y, part[1] + part[3] - size / 4)));
  }
}

const drawn = [];
function figure(view) {
  const image = data.images[view.image];
  const frame = html("figure");
  frame.tabIndex = 0;
  const all = [...view.objects.map(i => image.truth[i].box), ...view.detections.map(i => image.detections[i].box)];
  const svg = element("svg", {role: "img", "data-whole": [0, 0, image.width, image.height]});
  svg.append(element("image", {href: image.source, width: image.width, height: image.height}));
  const truth = image.truth.map((one, i) =>
    shape(svg, one.ignored ? "ignored" : "truth", one, view.objects.includes(i), data.classes[one.label] + " (label)", true));
  const detections = image.detections.map((one, i) =>
    shape(svg, one.status === TRUE ? "hit" : one.status === FALSE ? "false" : "ignored", one, view.detections.includes(i),
      data.classes[one.label] + " " + one.score.toFixed(2)));
  show(svg, crop(image, all), 13);
  drawn.push({image, truth, detections, view});
  frame.append(svg);
  const caption = html("figcaption", [view.caption, image.name].filter(Boolean).join(" · "), frame);
  svg.setAttribute("aria-label", caption.textContent);
  return frame;
}

function paint({image, truth, detections, view}) {
  const seen = new Set();
  image.detections.forEach((one, i) => {
    const shown = one.score >= threshold;
    detections[i].classList.toggle("below", !shown && !view.detections.includes(i));
    if (shown && one.status === TRUE) seen.add(one.target);
  });
  image.truth.forEach((one, i) => {
    if (!one.ignored) for (const part of truth[i].querySelectorAll("rect, path")) {
      part.classList.toggle("missed", !seen.has(i));
      part.classList.toggle("truth", seen.has(i));
    }
  });
}

function fill(place, views) {
  place.replaceChildren(...views.filter(view => view.image in data.images).map(figure));
  place.textContent || html("p", "This page has no image of these.", place);
}

for (const place of document.querySelectorAll("[data-views]")) fill(place, JSON.parse(place.dataset.views));
const inSections = drawn.length;  // the figures of a cell come after them

const dialog = document.querySelector("dialog");
function enlarge(frame) {
  const svg = frame.querySelector("svg").cloneNode(true);
  show(svg, svg.dataset.whole.split(",").map(Number), 30);
  dialog.querySelector("div").replaceChildren(svg);
  dialog.querySelector("p").textContent = frame.querySelector("figcaption").textContent;
  dialog.showModal();
}
document.addEventListener("click", event => {
  if (event.target.closest("dialog")) return dialog.close();
  const frame = event.target.closest(".views figure");
  if (frame) enlarge(frame);
});
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.target.matches?.(".views figure")) enlarge(event.target);
});
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));

const name = label => label === data.classes.length ? "background" : data.classes[label];
const share = (part, whole) => whole ? (100 * part / whole).toFixed(1) : "-";

function showCell(truth, predicted) {
  const background = data.classes.length, views = [];
  for (const key in data.images) {
    const image = data.images[key], objects = [], detections = [];
    const right = new Set(image.detections.filter(d => d.status === TRUE && d.score >= threshold).map(d => d.target));
    image.detections.forEach((one, i) => {
      if (one.score < threshold || one.status !== FALSE || one.label !== predicted) return;
      const taken = one.target >= 0 && !right.has(one.target);  // else it is a false positive beside a detected object
      if ((taken ? image.truth[one.target].label : background) === truth) { detections.push(i); if (taken) objects.push(one.target); }
    });
    if (predicted === background) image.truth.forEach((one, i) => {
      if (one.label === truth && !one.ignored && !image.detections.some(d => d.target === i && d.score >= threshold)) objects.push(i);
    });
    if (objects.length || detections.length) views.push({image: key, caption: name(truth) + " as " + name(predicted), objects, detections});
  }
  const place = document.querySelector("#cell");
  drawn.length = inSections;
  fill(place, views.slice(0, 24));
  drawn.forEach(paint);
  place.scrollIntoView({block: "nearest"});
}

function update() {
  const operating = data.operating;
  const step = operating.thresholds.reduce((best, value, i) => Math.abs(value - threshold) < Math.abs(operating.thresholds[best] - threshold) ? i : best, 0);
  const counts = operating.steps[step];
  threshold = operating.thresholds[step];  // of the pictures too
  document.querySelector("#threshold").value = step;
  document.querySelector("#at").textContent = operating.thresholds[step].toFixed(2);
  const sum = values => values.reduce((a, b) => a + b, 0);
  const write = (row, tp, fp, fn) => [tp, fp, fn, share(tp, tp + fp), share(tp, tp + fn), share(2 * tp, 2 * tp + fp + fn)]
    .forEach((value, i) => { row.cells[i + 1].textContent = value; });
  document.querySelectorAll("#counts tbody tr").forEach(row => {
    const label = Number(row.dataset.label);
    if (label < 0) write(row, sum(counts.tp), sum(counts.fp), sum(counts.fn));
    else write(row, counts.tp[label], counts.fp[label], counts.fn[label]);
  });
  const body = document.querySelector("#cells tbody");
  body.replaceChildren(...counts.cells.slice(0, 40).map(([truth, predicted, many]) => {
    const row = html("tr");
    html("td", name(truth), row); html("td", name(predicted), row); html("td", many, row);
    const button = html("button", "show", html("td", undefined, row));
    button.setAttribute("aria-label", "show " + name(truth) + " taken for " + name(predicted));
    button.addEventListener("click", () => showCell(truth, predicted));
    return row;
  }));
  drawn.forEach(paint);
}

const slider = document.querySelector("#threshold");
if (slider) {
  slider.addEventListener("input", () => { threshold = data.operating.thresholds[slider.value]; update(); });
  update();
}

const save = document.querySelector("#save");
if (save) {
  const ticks = [...document.querySelectorAll("#errors input")];
  const count = () => { save.textContent = "Save " + ticks.filter(one => one.checked).length + " ticked as label_errors.json"; };
  ticks.forEach(one => one.addEventListener("change", count));
  count();
  save.addEventListener("click", () => {
    const chosen = ticks.filter(one => one.checked).map(one => data.errors[one.value]);
    const text = JSON.stringify({root: data.root, label_errors: chosen}, null, 1);
    const link = html("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    link.download = "label_errors.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
