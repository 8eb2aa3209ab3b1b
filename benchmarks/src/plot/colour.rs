//! Colours of data: the same on light and dark pages, and told apart by people who do not see all
//! colours (Okabe and Ito's palette).

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rgb(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// The cloud.
pub(crate) const BLUE: Rgb = Rgb(0x00, 0x72, 0xb2);
/// The link.
pub(crate) const ORANGE: Rgb = Rgb(0xe6, 0x9f, 0x00);
/// The edge.
pub(crate) const GREEN: Rgb = Rgb(0x00, 0x9e, 0x73);
/// What should not be.
pub(crate) const VERMILION: Rgb = Rgb(0xd5, 0x5e, 0x00);
/// One more contender.
pub(crate) const PURPLE: Rgb = Rgb(0xcc, 0x79, 0xa7);
/// And one more.
pub(crate) const SKY: Rgb = Rgb(0x56, 0xb4, 0xe9);
/// What nothing can beat.
pub(crate) const GREY: Rgb = Rgb(0x7f, 0x7f, 0x7f);
/// Nothing of either.
pub(crate) const PALE: Rgb = Rgb(0xf4, 0xf4, 0xf0);

const BLACK: Rgb = Rgb(0x1a, 0x1a, 0x1a);
const WHITE: Rgb = Rgb(0xff, 0xff, 0xff);

impl Rgb {
    /// As SVG writes it.
    pub(crate) fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    /// Between this, at a `share` of 0, and `other`, at 1.
    pub(crate) fn mix(self, other: Self, share: f64) -> Self {
        let share = share.clamp(0.0, 1.0);
        let between = |a: u8, b: u8| {
            let value = f64::from(a) + (f64::from(b) - f64::from(a)) * share;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between two bytes"
            )]
            let value = value.round() as u8;
            value
        };
        Self(
            between(self.0, other.0),
            between(self.1, other.1),
            between(self.2, other.2),
        )
    }

    /// Black or white, whichever reads better on this.
    pub(crate) fn ink(self) -> Self {
        let [r, g, b] = [self.0, self.1, self.2].map(f64::from);
        // Perceived lightness, Rec. 601; a little above the middle, where white stops to read.
        if 0.299 * r + 0.587 * g + 0.114 * b > 140.0 {
            BLACK
        } else {
            WHITE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_lies_between() {
        assert_eq!(Rgb(0, 0, 0).mix(Rgb(100, 200, 50), 0.5), Rgb(50, 100, 25));
        assert_eq!(BLUE.mix(GREEN, -1.0), BLUE);
        assert_eq!(BLUE.mix(GREEN, 2.0), GREEN);
        assert_eq!(BLUE.hex(), "#0072b2");
    }

    #[test]
    fn text_contrasts_with_what_it_is_on() {
        assert_eq!(PALE.ink(), BLACK);
        assert_eq!(BLUE.ink(), WHITE);
    }
}
