// Runs before the first paint, so that a page that was switched to dark never flashes white.
(() => {
  const root = document.documentElement;
  const theme = localStorage.getItem("torpor.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  root.lang = localStorage.getItem("torpor.language") || (/^zh\b/i.test(navigator.language) ? "zh-CN" : "en");
})();
