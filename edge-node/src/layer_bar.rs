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
    computed: usize,
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
            computed: 0,
            received: 0,
            used: 0,
        }
    }

    /// Shows an event; the first token ends the line.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::LayersComputed(count) => self.computed = count,
            Event::LayerArrived(_) => self.received += 1,
            Event::LayerUsed(layer) => self.used = self.used.max(layer.as_usize() + 1),
            Event::Token(_) => {
                self.bar.finish_and_clear();
                return;
            }
        }
        self.bar.set_message(self.line());
    }

    /// `=` used, `-` received, `~` computed and on the wire, `.` still to come.
    fn line(&self) -> String {
        let cells = self.layer_count.min(CELLS_MAX);
        let scaled = |layers: usize| layers * cells / self.layer_count.max(1);
        let received = self.received.max(self.used);
        let computed = self.computed.max(received);
        let (used, here, under_way) = (scaled(self.used), scaled(received), scaled(computed));
        let bar: String = (0..cells)
            .map(|cell| match cell {
                cell if cell < used => '=',
                cell if cell < here => '-',
                cell if cell < under_way => '~',
                _ => '.',
            })
            .collect();
        let (count, received, used) = (self.layer_count, self.received, self.used);
        format!("[{bar}] {computed}/{count} computed, {received} received, {used} used")
    }
}

/// Widest bar, in characters.
const CELLS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_kv::LayerIndex;

    #[test]
    fn the_line_tells_the_states_of_layers_apart() {
        let mut bar = LayerBar::new(4);
        bar.show(Event::LayersComputed(3));
        for layer in [0, 1] {
            bar.show(Event::LayerArrived(LayerIndex(layer)));
        }
        bar.show(Event::LayerUsed(LayerIndex(0)));
        assert_eq!(bar.line(), "[=-~.] 3/4 computed, 2 received, 1 used");
    }
}
