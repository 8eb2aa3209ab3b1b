//! How much at a time travels beside the steps.

/// What is sent, cut or waited for at a time while jobs move. A single job, block or head may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portions {
    /// Jobs whose weights or keys and values are under way: what waits for a link is in memory.
    pub under_way_max: usize,
    /// Bytes of the weights of these.
    pub under_way_bytes: u64,
    /// Bytes of weights that are cut between two steps.
    pub cut_bytes: u64,
    /// Numbers of keys and values in one message.
    pub message_numbers: usize,
    /// Numbers of cloud prompts that are on their way to one worker.
    pub prefix_numbers: usize,
    /// Blocks, for each row of a pass, that may be left for the switch: while they travel no token is
    /// generated.
    pub late_blocks: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self {
            under_way_max: 8,
            under_way_bytes: 64 << 20,
            cut_bytes: 8 << 20,
            message_numbers: 1 << 18,
            prefix_numbers: 1 << 22,
            late_blocks: 4,
        }
    }
}
