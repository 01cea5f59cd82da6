// The default style of <headway-progress>. A constructed style sheet, because a strict policy
// blocks <style> even in a shadow root (web-facts#csp-and-shadow-roots). `light-dark` follows the
// `color-scheme` of the page, so a dark page gets a dark element.

const CSS = `
:host {
  --_accent: var(--headway-accent, light-dark(#2456c8, #7ba2ff));
  --_done: var(--headway-done, light-dark(#1b7a48, #55c288));
  --_failed: var(--headway-failed, light-dark(#bd2c22, #ff857a));
  --_waiting: var(--headway-waiting, light-dark(#8a5a00, #e3b04f));
  --_cancelled: var(--headway-cancelled, light-dark(#59626f, #98a3b1));
  --_text: var(--headway-text, light-dark(#17202b, #e7ecf2));
  --_soft: var(--headway-soft, light-dark(#566273, #9aa7b6));
  --_track: var(--headway-track, light-dark(#e1e6ed, #2b3542));
  --_height: var(--headway-height, .5rem);
  --_radius: var(--headway-radius, 99px);
  display: block;
  font: var(--headway-font, inherit);
  color: var(--_text);
  overflow-wrap: anywhere;
}
:host([hidden]) { display: none; }
[hidden] { display: none !important; }
.box { --tone: var(--_accent); display: grid; grid-template-columns: minmax(0, 1fr); gap: .375em; }
.box[data-tone=done] { --tone: var(--_done); }
.box[data-tone=failed] { --tone: var(--_failed); }
.box[data-tone=waiting] { --tone: var(--_waiting); }
.box[data-tone=cancelled] { --tone: var(--_cancelled); }
.head, .line { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1.25em; }
.label { font-weight: 600; min-width: 0; }
.status { margin-left: auto; color: var(--tone); font-weight: 600; font-size: .875em; }
.bar {
  height: var(--_height); border-radius: var(--_radius); background: var(--_track);
  overflow: hidden;
}
.fill {
  height: 100%; width: 0; border-radius: inherit; background: var(--tone);
  transition: width .25s linear;
}
.bar[data-kind=whole] .fill { width: 100%; }
/* Unknown total: a moving gradient, whose soft edges cannot be read as a percentage. */
.bar[data-kind=moving] .fill {
  width: 45%; background: linear-gradient(90deg, transparent, var(--tone), transparent);
  animation: to-and-fro 1.8s ease-in-out infinite alternate;
}
.box[data-connection=lost] .fill { animation-play-state: paused; }
@keyframes to-and-fro { from { margin-left: -15%; } to { margin-left: 70%; } }
.line { font-size: .9375em; min-height: 1.5em; }
.message { min-width: 0; flex: 1 1 12em; }
.numbers { color: var(--_soft); font-variant-numeric: tabular-nums; }
.numbers span:not(:empty) ~ span:not(:empty)::before { content: " · "; }
.error { margin: 0; color: var(--_failed); font-size: .9375em; }
.announcer {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
@media (prefers-reduced-motion: reduce) {
  .fill { transition: none; }
  .bar[data-kind=moving] .fill { animation: none; width: 100%;
    background: repeating-linear-gradient(90deg, var(--tone) 0 .75rem, transparent .75rem 1.5rem); }
}
@media (forced-colors: active) {
  .bar { border: 1px solid CanvasText; }
  .fill { background: Highlight; forced-color-adjust: none; }
}
`;

export const style = new CSSStyleSheet();
style.replaceSync(CSS);
