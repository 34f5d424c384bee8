// What a page does when it is touched: tables sort and filter, numbers open their records, charts answer.
// The address's fragment is the only state, so a link to a number can be sent, and "back" goes back.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
const root = document.documentElement;
root.classList.add("js");
all(".tools").forEach((tools) => { tools.hidden = false; });

// sorting: descending, ascending, as it was; what has no number comes last
function sortable(table) {
  const rows = all("tbody tr", table);
  const heads = all("thead th", table);
  const valueOf = (row, place) => {
    const cell = row.children[place];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const order = (place, way) => (a, b) => {
    const [first, second] = [valueOf(a, place), valueOf(b, place)];
    const numbers = [first, second].map((value) => typeof value === "number");
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
    return way * (numbers[0] ? first - second : first.localeCompare(second));
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...[...head.childNodes].filter((node) => !(node.classList && node.classList.contains("budget"))));
    head.prepend(button);
    button.addEventListener("click", () => {
      const text = typeof valueOf(rows[0], place) === "string";
      const ways = text ? ["ascending", "descending", null] : ["descending", "ascending", null];
      const next = ways[(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      const sorted = next ? [...rows].sort(order(place, next === "ascending" ? 1 : -1)) : rows;
      one("tbody", table).append(...sorted);
    });
  });
}

// filtering: every word has to be there
function filter(input, items, count, words) {
  const shown = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    items.forEach((item) => {
      const text = item.textContent.toLowerCase();
      item.hidden = !wanted.every((word) => text.includes(word));
    });
    const left = items.filter((item) => !item.hidden).length;
    count.textContent = wanted.length ? `${left} of ${items.length} ${words}` : "";
  };
  input.addEventListener("input", shown);
}

function columns(table, boxes) {
  boxes.forEach((box) => box.addEventListener("change", () => {
    all("tr", table).forEach((row) => { row.children[Number(box.dataset.column)].hidden = !box.checked; });
  }));
}

all("table[data-table]").forEach((table) => {
  const id = table.dataset.table;
  sortable(table);
  filter(one(`[data-filter="${id}"]`), all("tbody tr", table), one(`[data-count="${id}"]`), "networks");
  columns(table, all(`[data-of="${id}"]`));
});
all("[data-pictures]").forEach((input) => {
  const id = `${input.dataset.pictures}-g`;
  filter(input, all("li", document.getElementById(id)), one(`[data-count="${id}"]`), "pictures");
});

// records: the article that the fragment names, in a dialog
const dialog = one("#opened");
let opener = null;
function open() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!named || named.tagName !== "ARTICLE") {
    if (dialog.open) dialog.close();
    return;
  }
  one(".body", dialog).replaceChildren(...[...named.childNodes].map((node) => node.cloneNode(true)));
  dialog.setAttribute("aria-label", one("h3", named).textContent);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  one("[data-close]", dialog).focus();
}
let depth = 0;
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  depth = dialog.contains(link) ? depth + 1 : 0;
  if (!dialog.contains(link)) opener = link; // going to a fragment takes the focus away
});
one("[data-back]", dialog).addEventListener("click", () => {
  if (depth > 0) { depth -= 1; history.back(); } else dialog.close();
});
one("[data-close]", dialog).addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  const named = document.getElementById(location.hash.slice(1));
  if (named && named.tagName === "ARTICLE") history.replaceState(null, "", location.pathname + location.search);
  if (opener && opener.isConnected) opener.focus({ preventScroll: true });
  opener = null;
});
window.addEventListener("hashchange", open);
open();

// light and dark
const theme = one("#theme");
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; named(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
named();

// charts: `ast` reads expressions without eval, which the page forbids
async function draw(place) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "custom" } };
  try {
    await window.vegaEmbed(place, spec, options);
  } catch (error) {
    place.replaceChildren(); // the picture stays
    console.error(error);
  }
}
if (window.vegaEmbed) all(".live").reduce((before, place) => before.then(() => draw(place)), Promise.resolve());
