//! Nodes that average the map, and their parts: a mean over height and width at once, over one after the other, or over
//! both as one axis; and means over equal windows, which PyTorch makes of its adaptive pooling.

use super::super::proto::Node;
use super::graph::{Begun, GraphReader};
use crate::formats::Outcome;
use crate::model::{Shape, adaptive_avg_pool2d, global_avg_pool};

impl GraphReader<'_> {
    pub(super) fn average_pool(&mut self, node: &Node) -> Outcome<()> {
        let (h, w, channels) = self.map(node)?;
        let window = node.ints("kernel_shape").unwrap_or_default();
        let plain = node.all("pads", 0) && !node.text("auto_pad").starts_with("SAME") && node.all("dilations", 1);
        if plain && !self.ours && window == [1, 1] && node.all("strides", 1) {
            return Ok(()); // PyTorch's adaptive pooling to the size that the map already has
        }
        if plain && !self.ours && window == [h as i64, w as i64] {
            return self.average_all(node);
        }
        // How many windows lie side by side, if they cover the length.
        let count = |length: usize, size: i64| {
            let size = usize::try_from(size).ok().filter(|&size| length.is_multiple_of(size))?;
            Some(length / size)
        };
        if let &[down, across] = window
            && let (Some(rows), Some(columns)) = (count(h, down), count(w, across))
            && plain
            && node.is("strides", window)
        {
            return self.push(node, adaptive_avg_pool2d(rows, columns), vec![], vec![channels, rows, columns]);
        }
        Err(node.fault(
            "averages parts of the map; only the mean over the whole map, or over equal windows side by side, can be \
             read",
        ))
    }

    /// Averages height and width, whose axes stay.
    pub(super) fn average_all(&mut self, node: &Node) -> Outcome<()> {
        let (_, _, channels) = self.map(node)?;
        self.average(node, vec![channels, 1, 1])
    }

    pub(super) fn reduce_mean(&mut self, node: &Node) -> Outcome<()> {
        let mut axes: Vec<usize> = self.axes(node)?.into_iter().flatten().collect();
        axes.sort();
        let is_axis = |axis: &usize| (1..=self.dims.len()).contains(axis);
        let keeps = node.int("keepdims", 1) != 0;
        let size = |(i, &len): (usize, &usize)| if axes.contains(&(i + 1)) { keeps.then_some(1) } else { Some(len) };
        let dims: Vec<usize> = self.dims.iter().enumerate().filter_map(size).collect();
        let first = if self.channels_last { 1 } else { 2 };
        let is_map = self.dims.len() == 3;
        match (self.begun, &axes[..]) {
            (None, [_, ..])
                if axes.iter().all(|axis| is_axis(axis) && self.dims[axis - 1] == 1) && self.is_vector() =>
            {
                self.reshape_to(node, &dims)
            }
            (None, [a, b]) if is_map && [*a, *b] == [first, first + 1] => self.average(node, dims),
            (None, [axis @ (2 | 3)]) if is_map && !self.channels_last => {
                let is_next_kept = *axis == 2 && dims.len() == 3;
                self.begun = Some(Begun::Mean(if is_next_kept { 3 } else { 2 }));
                self.dims = dims;
                Ok(())
            }
            (Some(Begun::Mean(left)), [axis]) if *axis == left => {
                self.begun = None;
                self.average(node, dims)
            }
            _ => Err(node.fault("is not a mean over height and width")),
        }
    }

    /// Adds the mean over the map, whose output has these axes in the file. That over a map of one pixel is left out.
    fn average(&mut self, node: &Node, dims: Vec<usize>) -> Outcome<()> {
        if let Shape::Flat(channels) = self.shape {
            debug_assert!(dims.iter().product::<usize>() == channels);
            self.dims = dims;
        } else {
            self.push(node, global_avg_pool(), vec![], dims)?;
        }
        self.set_channels_last();
        Ok(())
    }
}
