// @ts-check
// Buttons that copy: the address of the page, or its code. Without this they are not shown, and the
// address bar and the text of the code are there all the same.

/** @param {HTMLElement} button */
async function copy(button) {
  const code = document.getElementById("code");
  const text = button.dataset.copy === "code" ? (code?.textContent ?? "") : location.href;
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser refused";
  }
  setTimeout(() => (button.textContent = said), 1500);
}

for (const found of document.querySelectorAll("[data-copy]")) {
  const button = /** @type {HTMLElement} */ (found);
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
