//! Geometry of the lines of a chart: dashes, and a free place for a label.

/// The line as dashes of 6 logical pixels with gaps of 4.
pub(super) fn dashes(line: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    const ENDS: [f64; 2] = [6.0, 10.0];
    let (mut done, mut drawing) = (0.0, true);
    let mut pieces = vec![line[..1].to_vec()];
    for pair in line.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let length = (x1 - x0).hypot(y1 - y0);
        let mut at = 0.0;
        loop {
            let left = ENDS[usize::from(!drawing)] - done;
            if at + left > length {
                break;
            }
            at += left;
            let turn = (x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length);
            if drawing {
                pieces.last_mut().expect("there is a first piece").push(turn);
            } else {
                pieces.push(vec![turn]);
            }
            done = if drawing { ENDS[0] } else { 0.0 };
            drawing = !drawing;
        }
        done += length - at;
        if drawing {
            pieces.last_mut().expect("there is a first piece").push((x1, y1));
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

/// A place near a point for a label of `size`, inside the plot from (left, top) to (right, bottom): the left end of its
/// baseline. The label hides as little of the curves as possible, and is as close to the point as that allows.
pub(super) fn free_place(
    curves: &[Vec<(f64, f64)>],
    (x, y): (f64, f64),
    size: (f64, f64),
    (left, top): (f64, f64),
    (right, bottom): (f64, f64),
    below_first: bool,
) -> (f64, f64) {
    let clamped = |text_x: f64| text_x.clamp(left + 4.0, (right - size.0 - 4.0).max(left + 4.0));
    let hidden = |(text_x, text_y): (f64, f64)| {
        let inside = |(px, py): (f64, f64)| {
            px > text_x - 6.0 && px < text_x + size.0 + 6.0 && py > text_y - size.1 - 3.0 && py < text_y + 6.0
        };
        curves.iter().map(|curve| along(curve).filter(|p| inside(*p)).count()).sum::<usize>()
    };
    // Below and above the point, then further away, and to its left and right.
    let sides = [x - size.0 / 2.0, x - size.0 - 14.0, x + 14.0].map(clamped);
    let rows = (0..14).flat_map(|i| {
        let away = 12.0 * f64::from(i);
        let (below, above) = (y + 24.0 + away, y - 14.0 - away);
        if below_first { [below, above] } else { [above, below] }
    });
    let places = rows.flat_map(|text_y| sides.map(|text_x| (text_x, text_y)));
    let in_the_plot = places.filter(|place| (top + size.1 + 2.0..=bottom - 6.0).contains(&place.1));
    // Each hidden point of a curve, 4 pixels of it, weighs as much as 8 pixels of distance.
    let cost = |&(text_x, text_y): &(f64, f64)| {
        let away = (text_x + size.0 / 2.0 - x).hypot(text_y - size.1 / 2.0 - y);
        8.0 * hidden((text_x, text_y)) as f64 + away
    };
    in_the_plot.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or((sides[0], y))
}

/// Points along a curve, at most about 4 pixels apart.
fn along(curve: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let first = curve.first().copied();
    let between = curve.windows(2).flat_map(|pair| {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let parts = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
        (1..=parts as usize).map(move |i| i as f64 / parts).map(move |t| (x0 + t * (x1 - x0), y0 + t * (y1 - y0)))
    });
    first.into_iter().chain(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_the_best_epoch_hides_no_curve() {
        let (left_top, right_bottom, size) = ((50.0, 70.0), (700.0, 400.0), (130.0, 12.0));
        let rising = vec![(50.0, 300.0), (700.0, 200.0)];
        let train = vec![(50.0, 250.0), (700.0, 180.0)];
        for curves in [vec![rising.clone()], vec![train, rising]] {
            for below in [true, false] {
                let (x, y) = free_place(&curves, (700.0, 200.0), size, left_top, right_bottom, below);
                assert!(x >= 50.0 && x + size.0 <= 700.0 && y - size.1 >= 70.0 && y <= 400.0);
                for (px, py) in curves.iter().flat_map(|curve| along(curve)) {
                    let inside = px >= x && px <= x + size.0 && py >= y - size.1 && py <= y;
                    assert!(!inside, "({px}, {py}) is under the label at ({x}, {y})");
                }
            }
        }
    }

    #[test]
    fn dashes_cover_six_tenths_of_a_line() {
        let line: Vec<(f64, f64)> =
            (0..=99).map(|i| (3.0 * f64::from(i), if i % 2 == 0 { 0.0 } else { 4.0 })).collect();
        let pieces = dashes(&line);
        let length = |piece: &Vec<(f64, f64)>| -> f64 {
            piece.windows(2).map(|p| (p[1].0 - p[0].0).hypot(p[1].1 - p[0].1)).sum()
        };
        assert_eq!(pieces.len(), 50); // the line is 495 pixels long
        assert!(pieces[..49].iter().all(|piece| (length(piece) - 6.0).abs() < 1e-9));
        assert!((length(&pieces[49]) - 5.0).abs() < 1e-9);
        assert_eq!((pieces[0][0], pieces[0][1]), ((0.0, 0.0), (3.0, 4.0)));
    }
}
