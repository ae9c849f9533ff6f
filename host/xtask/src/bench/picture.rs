//! A bar chart of the figures. The length of a bar is the speed relative to the fastest program at the workload.

use std::fmt::Write;

use super::suite::Workload;

const WIDTH: u64 = 760;
const LABELS: u64 = 230;
const BAR: u64 = 16;
const COLOURS: [&str; 4] = ["#2b6cb0", "#8a6d1f", "#b5892b", "#7a7f87"];

/// An SVG for light and dark pages.
pub(super) fn draw(workloads: &[Workload]) -> String {
    let heights = workloads.iter().map(|workload| 30 + (BAR + 4) * workload.measured.len() as u64);
    let height = heights.sum::<u64>() + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"Rows a second of each workload\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut y = 10;
    for workload in workloads {
        // Writing to a String does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{}\" font-weight=\"bold\" fill=\"#16202b\">{}</text>",
            y + 14,
            workload.name
        );
        y += 22;
        let fastest = workload.measured.iter().map(|(_, it)| workload.speed(it)).fold(1.0, f64::max);
        for (place, (name, it)) in workload.measured.iter().enumerate() {
            let speed = workload.speed(it);
            let length = (speed / fastest * (WIDTH - LABELS - 130) as f64).max(1.0);
            let colour = COLOURS.get(place).copied().unwrap_or("#7a7f87");
            let _ = writeln!(
                svg,
                "<text x=\"20\" y=\"{0}\" fill=\"#4a5763\">{name}</text>\
                 <rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.0}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                 <text x=\"{1:.0}\" y=\"{0}\" fill=\"#16202b\">{speed:.0} rows/s</text>",
                y + 13,
                LABELS as f64 + length + 6.0
            );
            y += BAR + 4;
        }
        y += 8;
    }
    svg.push_str("</svg>\n");
    svg
}
