//! The cheapest counts of one stage when the number of workers is limited, by dynamic programming. Times
//! are not seen here but as caps.

/// The cheapest counts below caps with at most so many workers: a dynamic programme over devices,
/// whose state is the jobs and the workers so far.
pub(super) fn cheapest(
    (least, caps, jobs): (&[usize], &[usize], usize),
    worker_count: usize,
    charge: impl Fn(usize, usize) -> f64,
) -> Option<Vec<usize>> {
    let width = jobs + 1;
    let size = (worker_count + 1) * width;
    let mut charges = vec![f64::INFINITY; size];
    charges[0] = 0.0;
    let mut choices = Vec::with_capacity(caps.len());
    for (device, cap) in caps.iter().enumerate() {
        let mut next = vec![f64::INFINITY; size];
        let mut choice = vec![0; size];
        for count in least[device]..=*cap {
            let more = charge(device, count);
            let worker = usize::from(device > 0 && count > 0);
            let Some(used_most) = worker_count.checked_sub(worker) else {
                continue;
            };
            for used in 0..=used_most {
                for done in 0..=jobs - count {
                    let sum = charges[used * width + done] + more;
                    let to = (used + worker) * width + done + count;
                    if sum < next[to] {
                        next[to] = sum;
                        choice[to] = count;
                    }
                }
            }
        }
        charges = next;
        choices.push(choice);
    }
    let ends = (0..=worker_count).map(|used| used * width + jobs);
    let mut at = ends.min_by(|a, b| charges[*a].total_cmp(&charges[*b]))?;
    if charges[at].is_infinite() {
        return None;
    }
    let mut row = vec![0; caps.len()];
    for (device, choice) in choices.iter().enumerate().rev() {
        let count = choice[at];
        row[device] = count;
        at -= count;
        if device > 0 && count > 0 {
            at -= width;
        }
    }
    Some(row)
}
