// @ts-check
// Keys for the pages. An element that has `data-key="n"` is what the key n does: a link is followed,
// a button pressed, a field focused. j and k walk through the rows where no element has them.
// Nothing here is needed: each key is a link, a button or a field that is there without it.

const SETTING = "viewstore-keys";
const KEYS_PAUSED = "off";
/** The rows of the page, in their order. */
const rows = () => /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".rows > li")]);
const dialog = /** @type {HTMLDialogElement | null} */ (document.getElementById("keys"));
const switchButton = document.getElementById("keys-switch");

/** Whether a person has turned the keys off. */
function areOff() {
  try {
    return localStorage.getItem(SETTING) === KEYS_PAUSED;
  } catch {
    return false; // a browser that keeps nothing
  }
}

/** @param {boolean} off */
function turn(off) {
  try {
    localStorage.setItem(SETTING, off ? KEYS_PAUSED : "on");
  } catch {
    // a browser that keeps nothing forgets it with the page
  }
  if (switchButton) switchButton.textContent = off ? "Turn keys on" : "Turn keys off";
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof Element && target.closest("input, select, textarea, [contenteditable]") !== null;
}

/** The row that the address names (#r17): the one that was just marked. */
const named = () => rows().find((row) => row.id && `#${row.id}` === location.hash);

/** The row with the cursor: the focus is in it, or it was named and nothing has the focus. */
function current() {
  const focused = document.activeElement ?? document.body;
  return rows().find((row) => row.contains(focused)) ?? (focused === document.body ? named() : undefined);
}

/** @param {HTMLElement | undefined} row */
function focusOn(row) {
  /** @type {HTMLElement | null | undefined} */ (row?.querySelector("h3 a"))?.focus();
}

/** Move to the next row, or by `step`; the link of its key gets the focus.
 * @param {number} step */
function walk(step) {
  const all = rows();
  const row = current();
  const here = row ? all.indexOf(row) : -1;
  const next = all[here < 0 ? (step > 0 ? 0 : all.length - 1) : here + step];
  if (next) {
    focusOn(next);
    next.scrollIntoView({ block: "nearest" });
  }
}

/** Do what the element with this key does; return whether there is one. In a row, the row's own comes first.
 * @param {string} key */
function act(key) {
  const row = current();
  const selector = `[data-key="${CSS.escape(key)}"]:not([hidden])`;
  const target = /** @type {HTMLElement | null} */ (row?.querySelector(selector) ?? document.querySelector(`${selector}:not(.rows *)`));
  if (!target) return false;
  if (target.matches("input:not([type=checkbox]), select")) {
    target.focus();
    if (target instanceof HTMLInputElement) target.select();
  } else {
    target.click();
  }
  return true;
}

/** Leave one view's box alone on the page, or all of them again.
 * @param {string} view */
function alone(view) {
  const shown = document.body.dataset.alone;
  if (shown === view) delete document.body.dataset.alone;
  else document.body.dataset.alone = view;
}

/** Close what is open, then go back, as the browser's own key does.
 * @param {EventTarget | null} target */
function leave(target) {
  if (isTyping(target)) /** @type {HTMLElement} */ (target).blur();
  else if (document.body.dataset.alone) delete document.body.dataset.alone;
  else history.back();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  if (dialog?.open) return; // its own keys are the browser's
  if (event.key === "Escape") return leave(event.target);
  if (event.key === "?" && !isTyping(event.target)) {
    dialog?.showModal();
    return event.preventDefault();
  }
  if (areOff() || isTyping(event.target)) return;
  if (/^[1-9]$/.test(event.key)) alone(event.key);
  else if (event.key === "0") delete document.body.dataset.alone;
  else if (event.key === "b") document.body.classList.toggle("no-boxes");
  else if (!/^[a-z/]$/.test(event.key)) return;
  else if (!act(event.key) && event.key === "j") walk(1);
  else if (event.key === "k" && !document.querySelector("[data-key=k]")) walk(-1);
  event.preventDefault();
});

turn(areOff());
// A mark loads the page again: the cursor stays. Browsers take the focus as they scroll to the row, until all is loaded.
addEventListener("load", () => setTimeout(() => areOff() || document.activeElement !== document.body || focusOn(named())));
switchButton?.addEventListener("click", () => turn(!areOff()));
for (const opener of document.querySelectorAll("[data-shows=keys]")) {
  /** @type {HTMLElement} */ (opener).hidden = false;
  opener.addEventListener("click", () => dialog?.showModal());
}
