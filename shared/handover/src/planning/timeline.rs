//! One machine's time, as what is still free of it.
//!
//! Users reserve in the order of their deadlines, each the earliest that is free after it is there.
//! That is earliest deadline first with preemption: whoever comes later in the order only gets what
//! the earlier ones leave, and the machine never stands still while somebody it could serve waits.

/// What is asked of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    /// Not before.
    pub(crate) release: f64,
    /// So much of the machine's time.
    pub(crate) amount: f64,
}

/// A stretch that is free.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gap {
    start: f64,
    end: f64,
}

/// What is free, in order. The last gap never ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timeline {
    gaps: Vec<Gap>,
}

impl Timeline {
    /// All of it is free.
    pub(crate) fn free() -> Self {
        let start = 0.0;
        let end = f64::INFINITY;
        Self {
            gaps: vec![Gap { start, end }],
        }
    }

    /// When a job would end; its release if it asks for nothing.
    pub(crate) fn finish(&self, job: Job) -> f64 {
        let mut missing = job.amount;
        if missing <= 0.0 {
            return job.release;
        }
        for gap in &self.gaps[self.first_after(job.release)..] {
            let start = gap.start.max(job.release);
            if start + missing <= gap.end {
                return start + missing;
            }
            missing -= gap.end - start;
        }
        f64::INFINITY
    }

    /// Takes what a job needs, tells `taken` of every stretch, and says when the job ends.
    pub(crate) fn reserve(&mut self, job: Job, mut taken: impl FnMut(f64, f64)) -> f64 {
        let mut missing = job.amount;
        if missing <= 0.0 {
            return job.release;
        }
        let first = self.first_after(job.release);
        let mut last = first;
        let mut finish = job.release;
        // What stays of the first gap before the job, and of the last gap after it.
        let before = self.gaps[first..].first().map(|gap| Gap {
            start: gap.start,
            end: job.release,
        });
        let mut after = None;
        for gap in &self.gaps[first..] {
            last += 1;
            let start = gap.start.max(job.release);
            finish = (start + missing).min(gap.end);
            taken(start, finish);
            if start + missing <= gap.end {
                let end = gap.end;
                after = Some(Gap { start: finish, end });
                break;
            }
            missing -= gap.end - start;
        }
        let left = before
            .into_iter()
            .chain(after)
            .filter(|gap| gap.end > gap.start);
        self.gaps.splice(first..last, left);
        finish
    }

    /// The first gap that ends after a moment.
    fn first_after(&self, moment: f64) -> usize {
        self.gaps.partition_point(|gap| gap.end <= moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(timeline: &mut Timeline, release: f64, amount: f64) -> (f64, Vec<(f64, f64)>) {
        let job = Job { release, amount };
        let foreseen = timeline.finish(job);
        let mut taken = Vec::new();
        let finish = timeline.reserve(job, |start, end| taken.push((start, end)));
        assert_eq!(finish, foreseen);
        (finish, taken)
    }

    #[test]
    fn each_takes_the_earliest_that_is_left() {
        let mut timeline = Timeline::free();
        assert_eq!(take(&mut timeline, 2.0, 1.0), (3.0, vec![(2.0, 3.0)]));
        assert_eq!(take(&mut timeline, 5.0, 1.0), (6.0, vec![(5.0, 6.0)]));
        // Around both, from 1 on.
        let around = vec![(1.0, 2.0), (3.0, 5.0), (6.0, 7.5)];
        assert_eq!(take(&mut timeline, 1.0, 4.5), (7.5, around));
        assert_eq!(take(&mut timeline, 0.0, 0.5), (0.5, vec![(0.0, 0.5)]));
        assert_eq!(take(&mut timeline, 3.0, 0.0), (3.0, vec![]));
        let rest = vec![(0.5, 1.0), (7.5, 8.0)];
        assert_eq!(take(&mut timeline, 0.0, 1.0), (8.0, rest));
        assert_eq!(timeline.gaps.len(), 1);
    }
}
