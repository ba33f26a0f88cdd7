// The one place that knows which libraries draw the page.
export {
  html, render, h, Component, useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback,
} from "./vendor/preact-htm.js";

export const uPlot = () => window.uPlot;
