//! The flags that say how much a program tells about itself.

use clap::{ArgAction, Args};
use edgeprompt_telemetry::tracing_setup::{self, InitError, LogFormat, Verbosity};

/// How much is logged, and how.
#[derive(Args, Clone, Copy, Debug)]
pub struct LogArgs {
    /// Say more: -v what happens, -vv why, -vvv everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Say less: -q warnings, -qq errors
    #[arg(short, long, action = ArgAction::Count, global = true)]
    quiet: u8,
    /// Log lines as text or JSON
    #[arg(
        long,
        default_value_t,
        global = true,
        value_name = "FORMAT",
        env = "EDGEPROMPT_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts logging; without flags, as much as `usual`.
    ///
    /// # Errors
    /// [`InitError`].
    pub fn init(self, usual: Verbosity) -> Result<(), InitError> {
        tracing_setup::init(self.log_format, usual.shifted(self.verbose, self.quiet))
    }
}
