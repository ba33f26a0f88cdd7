// Plots: uPlot in our colours, with a cursor line that costs no drawing.
import { html, uPlot, useEffect, useLayoutEffect, useRef } from "./vendor.js";
import { colour, short, theme } from "./format.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function axes(unit, hasNoX) {
  const font = `11px ${theme("font")}`;
  const common = {
    stroke: theme("quiet"), font, labelFont: font,
    grid: { stroke: theme("grid"), width: 1 }, ticks: { show: false },
  };
  return [
    { ...common, size: hasNoX ? 0 : 24, gap: 4, space: 70, values: hasNoX ? (_, marks) => marks.map(() => null) : unit || ((_, marks) => marks.map(short)) },
    { ...common, size: 46, gap: 6, space: 22, values: (_, marks) => marks.map(short) },
  ];
}

// series: [{ label, values, index | stroke, width, stepped, points, band }]
export function Plot({ label, x, series, height = 160, xUnit, marks, onReady, range, yRange, isTime, bars, hasNoX }) {
  const box = useRef(null);
  const plot = useRef(null);
  const shape = JSON.stringify([series.map((one) => [one.label, one.index, one.stroke, one.stepped, one.band, one.points]), height, isTime, hasNoX]);

  useLayoutEffect(() => {
    const element = box.current;
    function build() {
      if (plot.current) plot.current.destroy();
      const width = Math.max(120, element.clientWidth);
      const options = {
        width, height, padding: [6, 18, hasNoX ? 4 : 0, 0],
        cursor: { show: false, drag: { x: false, y: false } },
        legend: { show: false },
        scales: {
          x: { time: Boolean(isTime), ...(range ? { range: () => range() } : {}) },
          y: { range: yRange || padded },
        },
        axes: axes(isTime ? null : xUnit, hasNoX),
        series: [{}, ...series.map((one) => styleOf(one, bars))],
        bands: bandsOf(series),
        hooks: { draw: [(drawn) => drawMarks(drawn, marksNow.current)] },
      };
      if (isTime) delete options.axes[0].values;
      plot.current = new (uPlot())(options, [x, ...series.map((one) => one.values)], element);
      plot.current.root.setAttribute("role", "img");
      plot.current.root.setAttribute("aria-label", label);
      if (onReady) onReady(plot.current);
    }
    build();
    const sized = new ResizeObserver(() => {
      const width = Math.max(120, element.clientWidth);
      if (plot.current && Math.abs(width - plot.current.width) > 1) plot.current.setSize({ width, height });
    });
    sized.observe(element);
    dark.addEventListener("change", build);
    return () => {
      dark.removeEventListener("change", build);
      sized.disconnect();
      plot.current.destroy();
      plot.current = null;
      if (onReady) onReady(null);
    };
  }, [shape]);

  const marksNow = useRef(marks);
  marksNow.current = marks;
  useEffect(() => {
    if (plot.current) plot.current.setData([x, ...series.map((one) => one.values)]);
  }, [x, marks, ...series.map((one) => one.values)]);

  return html`<div class="plot" ref=${box}></div>`;
}

function padded(_, low, high) {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (low === high) return [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
  const room = (high - low) * 0.06;
  return [low - room, high + room];
}

function styleOf(one, bars) {
  const stroke = one.stroke ? theme(one.stroke) : colour(one.index || 0);
  const style = { label: one.label, stroke, width: one.width ?? 1.25, points: { show: Boolean(one.points), size: 4 }, spanGaps: false };
  if (one.stepped) style.paths = uPlot().paths.stepped({ align: 1 });
  if (one.band) {
    style.width = 0;
    style.stroke = "transparent";
  }
  if (bars) {
    style.paths = uPlot().paths.bars({ size: [0.9, 40], align: 0 });
    style.fill = stroke;
    style.width = 0;
  }
  return style;
}

// Two series in a row with `band` are the highest and the lowest values of an area.
function bandsOf(series) {
  const bands = [];
  series.forEach((one, at) => {
    const next = series[at + 1];
    if (one.band && next && next.band === one.band) {
      const base = one.fill ? theme(one.fill) : colour(one.index || 0);
      bands.push({ series: [at + 1, at + 2], fill: translucent(base) });
    }
  });
  return bands;
}

function translucent(base) {
  return /^#[0-9a-f]{6}$/i.test(base) ? `${base}2e` : base;
}

function drawMarks(plot, marks) {
  if (!marks || !marks.length) return;
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = theme("warn");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const mark of marks) {
    const at = plot.valToPos(mark, "x", true);
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
