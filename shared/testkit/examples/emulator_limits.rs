//! How fast the link emulator is on this machine now: emulated rates should stay well below.

use std::io::Write;
use std::time::Duration;

use edgeprompt_testkit::emulator::saturation_rate;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    for _ in 0..5 {
        let saturation = saturation_rate(Duration::from_secs(1))?;
        writeln!(
            out,
            "{} Mbit/s of payload, {} packets/s, {} lost",
            saturation.rate.bits() / 1_000_000,
            saturation.packets_per_second,
            saturation.lost_packet_count,
        )?;
    }
    Ok(())
}
