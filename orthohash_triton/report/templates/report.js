// Tips: elements with data-tip show it next to the pointer; dots of a class also show their image.
const tip = document.getElementById("tip");
const sprite = document.getElementById("sprite");

function picture(point) {
  const { side, columns } = sprite.dataset;
  const zoom = 2.5, row = Number(point.dataset.row);
  const image = document.createElement("i");
  image.style.cssText = `width:${side * zoom}px;height:${side * zoom}px;background:url(${sprite.src}) ` +
    `-${(row % columns) * side * zoom}px -${Math.floor(row / columns) * side * zoom}px / ${columns * side * zoom}px auto`;
  return image;
}

addEventListener("pointermove", (event) => {
  const found = event.target.closest?.("[data-tip]");
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = found.dataset.tip;
  if (sprite && event.target.dataset.row) tip.append(picture(event.target));
  const box = tip.getBoundingClientRect();
  const beside = event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
  tip.style.left = `${Math.max(4, beside)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - box.height - 4)}px`;
});
addEventListener("pointerdown", (event) => { if (!event.target.closest?.("[data-tip]")) tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

// A class in the legend that is under the pointer or focused dims the other classes.
for (const entry of document.querySelectorAll("[data-lights]")) {
  const chart = entry.closest(".chart");
  const light = (on) => {
    chart.classList.toggle("dimmed", on);
    chart.querySelector(`[data-cloud="${entry.dataset.lights}"]`).classList.toggle("lit", on);
  };
  entry.addEventListener("pointerenter", () => light(true));
  entry.addEventListener("pointerleave", () => light(false));
  entry.addEventListener("focus", () => light(true));
  entry.addEventListener("blur", () => light(false));
}
