"use strict";
// A term's definition opens below it (above, near the end of the window): by mouse on hover, else by click or key.
for (const term of document.querySelectorAll("button.term")) {
  const tip = document.getElementById(term.getAttribute("popovertarget"));
  if (!tip.showPopover) continue;
  const place = () => {
    const box = term.getBoundingClientRect(), width = Math.min(340, innerWidth - 24), below = box.bottom + 180 < innerHeight;
    tip.style.cssText = `margin:0;right:auto;left:${Math.max(12, Math.min(box.left, innerWidth - width - 12))}px;` +
      (below ? `top:${box.bottom + 6}px;bottom:auto` : `top:auto;bottom:${innerHeight - box.top + 6}px`);
  };
  term.addEventListener("click", place, true);
  term.addEventListener("pointerenter", e => { if (e.pointerType === "mouse") { place(); tip.showPopover(); } });
  term.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") tip.hidePopover(); });
}
// In an element with a player, a click on a turn plays from there; what is spoken is marked, and stays in view.
for (const clip of document.querySelectorAll("[data-clip]")) {
  const audio = clip.querySelector("audio"), time = clip.querySelector(".time");
  if (!audio) continue;
  const head = time && time.querySelector(".head"), total = time ? Number(time.dataset.seconds) : 0;
  const parts = [...clip.querySelectorAll("[data-at]")];
  const play = at => { audio.currentTime = at; audio.play().catch(() => {}); }; // refused when paused before it begins
  clip.addEventListener("click", e => {
    const part = e.target.closest("[data-at]");
    if (part) play(Number(part.dataset.at));
    else if (time && time.contains(e.target)) {
      const box = time.getBoundingClientRect();
      play((e.clientX - box.left) / box.width * total);
    }
  });
  const follow = () => {
    const now = audio.currentTime;
    if (head) {
      const x = now / total * time.offsetWidth, view = time.parentElement;
      head.style.left = `${x}px`;
      head.classList.toggle("on", now > 0);
      if (!audio.paused && (x < view.scrollLeft || x > view.scrollLeft + view.clientWidth - 24)) view.scrollLeft = x - 48;
    }
    for (const part of parts) part.classList.toggle("on", !audio.paused && now >= part.dataset.at && now < part.dataset.to);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  for (const name of ["play", "pause", "seeked", "timeupdate"]) audio.addEventListener(name, follow);
}
// A table of pairs shows those of the two chosen rows; without scripts it shows all.
for (const pairs of document.querySelectorAll("[data-pairs]")) {
  const choices = [...pairs.querySelectorAll("select")], said = pairs.querySelector("[data-said]");
  const show = () => {
    const [a, b] = choices.map(c => c.value);
    let found = null;
    for (const row of pairs.querySelectorAll("tbody tr")) {
      row.hidden = !((row.dataset.a === a && row.dataset.b === b) || (row.dataset.a === b && row.dataset.b === a));
      if (!row.hidden) found = row;
    }
    said.textContent = found ? `A: ${found.dataset.a}. B: ${found.dataset.b}.` :
      a === b ? "Choose two different rows." : "These two rows have no rate in common on the same sessions.";
  };
  pairs.classList.add("chosen");
  pairs.querySelector(".choice").hidden = false;
  for (const choice of choices) choice.addEventListener("change", show);
  show();
}
