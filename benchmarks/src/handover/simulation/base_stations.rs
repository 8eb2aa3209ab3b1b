//! Measured handovers of the radio: how long before a device changes its base station that is known, and
//! how long it hears nothing. Only what the move of a session adds to that is felt.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// How devices change their base station, and the rows of a change in `HO-Duration_Combined.csv` of the
/// artefact of "Vivisecting Mobility Management in 5G Cellular Networks" (SIGCOMM 2022). A change of the 5G
/// station beside a 4G one is two procedures.
const CHANGES: [(&str, &[(&str, &str)]); 3] = [
    ("LTE", &[("LTE", "PCell")]),
    ("5G NSA", &[("NSA", "SCG Rel."), ("NSA", "SCG Add.")]),
    ("5G SA", &[("SA", "MCG")]),
];

/// Seconds of a procedure: its decision, the exchange with the station before, and the access to the next.
const COLUMNS: [&str; 5] = ["MR", "HO", "RCH", "Tech", "Type"];

/// One procedure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Procedure {
    /// From the device's report until it is told to go: what a network has to prepare.
    pub(super) prepares_s: f64,
    /// Until the next station hears it.
    pub(super) silent_s: f64,
}

/// The measured changes of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Changes {
    pub(super) name: &'static str,
    /// What follows each other in one change: any of each.
    procedures: Vec<Vec<Procedure>>,
}

/// All that were measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BaseStations {
    pub(super) changes: Vec<Changes>,
    /// Rows without all their times.
    pub(super) unusable_count: usize,
}

impl Changes {
    /// One change, made of the procedures at these shares of all measured ones, from 0 to 1.
    pub(super) fn pick(&self, mut share: impl FnMut() -> f64) -> Procedure {
        let mut pick = |all: &Vec<Procedure>| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a place among the measured ones"
            )]
            let place = (share() * all.len() as f64) as usize;
            all[place.min(all.len() - 1)]
        };
        let mut picked = self.procedures.iter().map(&mut pick);
        let first = picked.next().expect("a change has a procedure");
        Procedure {
            prepares_s: first.prepares_s,
            silent_s: picked.fold(first.silent_s, |sum, next| sum + next.silent_s),
        }
    }

    /// Procedures that were measured.
    pub(super) fn count(&self) -> usize {
        self.procedures.iter().map(Vec::len).sum()
    }
}

/// Reads the file.
///
/// # Errors
/// If it cannot be read, lacks a column, or has no whole change of a kind.
pub(super) fn read(path: &Path) -> Result<BaseStations> {
    let in_file = || format!("the radio's handovers {}", path.display());
    let text = std::fs::read_to_string(path).with_context(in_file)?;
    parse(&text).with_context(in_file)
}

fn parse(text: &str) -> Result<BaseStations> {
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let place = |name: &str| {
        let found = head.iter().position(|it| it.trim() == name);
        found.with_context(|| format!("no column is named {name}"))
    };
    let [prepares, exchange, access, technology, kind] = COLUMNS.map(place);
    let times = [prepares?, exchange?, access?];
    let (technology, kind) = (technology?, kind?);
    let mut unusable_count = 0;
    let mut changes = CHANGES.map(|(name, procedures)| Changes {
        name,
        procedures: vec![Vec::new(); procedures.len()],
    });
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let cells: Vec<_> = line.split(',').map(str::trim).collect();
        let cell = |place: usize| cells.get(place).copied().unwrap_or_default();
        // Clocks of device and network that disagree make some negative.
        let seconds = |place| {
            let number = cell(place).parse::<f64>().ok();
            number.filter(|it| it.is_finite() && *it >= 0.0)
        };
        let [Some(prepares_s), Some(exchange_s), Some(access_s)] = times.map(seconds) else {
            unusable_count += 1;
            continue;
        };
        for (found, (_, procedures)) in changes.iter_mut().zip(CHANGES) {
            let rows = found.procedures.iter_mut().zip(procedures);
            for (rows, of) in rows {
                if *of == (cell(technology), cell(kind)) {
                    rows.push(Procedure {
                        prepares_s,
                        silent_s: exchange_s + access_s,
                    });
                }
            }
        }
    }
    for found in &changes {
        let is_whole = found.procedures.iter().all(|rows| !rows.is_empty());
        ensure!(is_whole, "no handover of {} is measured", found.name);
    }
    Ok(BaseStations {
        changes: changes.into(),
        unusable_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "HO,MR,RCH,FULL,Type,Tech,Band,Operator\n\
        0.02,0.05,0.01,0.03,PCell,LTE,Low,X\n0.02,0.05,,,PCell,LTE,Low,X\n\
        -0.4,0.05,0.01,0.03,PCell,LTE,Low,X\n0.01,0.06,0.02,0,SCG Rel.,NSA,Mid,X\n\
        0.03,0.9,0.01,0,SCG Add.,NSA,Mid,X\n0.05,0.04,0.01,0,MCG,SA,Low,X\n0.06,0.08,0.01,0,MCG,SA,Low,X\n";

    #[test]
    fn procedures_of_a_change_follow_each_other() {
        let found = parse(FILE).unwrap();
        assert_eq!(found.unusable_count, 2);
        let counts: Vec<_> = found.changes.iter().map(Changes::count).collect();
        assert_eq!(counts, [1, 2, 2]);
        let near = |procedure: Procedure, prepares_s: f64, silent_s: f64| {
            (procedure.prepares_s - prepares_s).abs() < 1e-9
                && (procedure.silent_s - silent_s).abs() < 1e-9
        };
        let picked = |index: usize, share: f64| found.changes[index].pick(|| share);
        assert!(near(picked(0, 1.0), 0.05, 0.03));
        assert!(near(picked(1, 0.0), 0.06, 0.07), "{:?}", picked(1, 0.0));
        assert!(near(picked(2, 0.4), 0.04, 0.06));
        assert!(near(picked(2, 0.6), 0.08, 0.07));
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let error = parse("t,Mbps\n1,2\n").unwrap_err().to_string();
        assert!(error.contains("MR"), "{error}");
        let error = parse(FILE.split_at(120).0).unwrap_err().to_string();
        assert!(error.contains("is measured"), "{error}");
        assert!(parse("").is_err());
    }
}
