//! Live progress of a cloud prompt on a terminal: layers computed, received and used.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::answer::Event;

/// One line on standard error that shows how far the layers have come; nothing if that is not a
/// terminal.
#[derive(Debug)]
pub struct LayerBar {
    bar: ProgressBar,
    layer_count: usize,
    received: usize,
    used: usize,
}

impl LayerBar {
    /// A bar for a model of `layer_count` layers.
    ///
    /// # Panics
    /// Never: the template is fixed.
    pub fn new(layer_count: usize) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("cloud layers {msg}");
            ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            layer_count,
            received: 0,
            used: 0,
        }
    }

    /// Shows an event; the first token ends the line.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::LayerArrived(_) => self.received += 1,
            Event::LayerUsed(layer) => self.used = self.used.max(layer.as_usize() + 1),
            Event::Token(_) => {
                self.bar.finish_and_clear();
                return;
            }
        }
        self.bar.set_message(self.line());
    }

    /// `=` used, `-` received, `.` still to come.
    fn line(&self) -> String {
        let cells = self.layer_count.min(CELLS_MAX);
        let scaled = |layers: usize| layers * cells / self.layer_count.max(1);
        let (used, received) = (scaled(self.used), scaled(self.received.max(self.used)));
        let bar: String = (0..cells)
            .map(|cell| match cell {
                cell if cell < used => '=',
                cell if cell < received => '-',
                _ => '.',
            })
            .collect();
        let (received, count) = (self.received, self.layer_count);
        format!(
            "[{bar}] {received}/{count} received, {}/{count} used",
            self.used
        )
    }
}

/// Widest bar, in characters.
const CELLS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_kv::LayerIndex;

    #[test]
    fn the_line_tells_used_received_and_missing_apart() {
        let mut bar = LayerBar::new(4);
        for layer in [0, 1, 3] {
            bar.show(Event::LayerArrived(LayerIndex(layer)));
        }
        bar.show(Event::LayerUsed(LayerIndex(0)));
        assert_eq!(bar.line(), "[=--.] 3/4 received, 1/4 used");
    }
}
