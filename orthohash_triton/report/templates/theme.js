// Light or dark theme: the last choice on this page, or else the preference of the system.
const root = document.documentElement;
const preferred = matchMedia("(prefers-color-scheme: dark)");
const remembered = () => { try { return localStorage.getItem("orthohash-theme"); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem("orthohash-theme", theme); } catch { /* private windows have no storage */ } };

function show(theme) {
  root.dataset.theme = theme;
  const button = document.getElementById("theme");
  if (!button) return;
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
}

show(remembered() || (preferred.matches ? "dark" : "light"));
preferred.addEventListener("change", (event) => { if (!remembered()) show(event.matches ? "dark" : "light"); });
addEventListener("DOMContentLoaded", () => {
  show(root.dataset.theme);
  document.getElementById("theme").addEventListener("click", () => {
    show(root.dataset.theme === "dark" ? "light" : "dark");
    remember(root.dataset.theme);
  });
});
