//! Identities and tokens without any network: kept, read back, redacted, refused.

use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{Domain, any_port, config};
use crate::{
    CloudEndpoint, CloudIdentity, EdgeEndpoint, EdgeIdentity, INVITATION_LIFETIME, IdentityError,
    JoinError, JoinToken, ParseTokenError, Validity,
};

fn token() -> JoinToken {
    CloudIdentity::in_memory()
        .unwrap()
        .invite(INVITATION_LIFETIME)
        .unwrap()
}

#[tokio::test]
async fn identities_survive_restarts_and_tokens_travel_as_one_word() {
    let dir = tempfile::tempdir().unwrap();
    let (cloud_dir, edge_dir) = (dir.path().join("cloud"), dir.path().join("edge"));
    let (_, token) = CloudIdentity::init(&cloud_dir).unwrap();
    let word = token.to_string();
    assert!(word.starts_with("epjoin1.") && !word.contains(char::is_whitespace));

    let edge = EdgeIdentity::join(&word.parse().unwrap()).unwrap();
    edge.save(&edge_dir).unwrap();
    let loaded = EdgeIdentity::load(&edge_dir).unwrap();
    assert_eq!(loaded.name(), edge.name());

    let serving = CloudIdentity::load(&cloud_dir).unwrap();
    let mut cloud = CloudEndpoint::bind(any_port(), &serving, config()).unwrap();
    let endpoint = EdgeEndpoint::bind(any_port(), &loaded, config()).unwrap();
    let addr = cloud.local_addr().unwrap();
    let _first = endpoint.connect(addr).await.unwrap();
    assert_eq!(cloud.accept().await.unwrap().peer_name(), edge.name());

    // Another process invites a second edge while this one serves.
    let inviting = CloudIdentity::load(&cloud_dir).unwrap();
    let second = EdgeIdentity::join(&inviting.invite(INVITATION_LIFETIME).unwrap()).unwrap();
    let endpoint = EdgeEndpoint::bind(any_port(), &second, config()).unwrap();
    let _second = endpoint.connect(addr).await.unwrap();
    assert_eq!(cloud.accept().await.unwrap().peer_name(), second.name());
}

#[test]
fn certificates_are_valid_for_a_time() {
    let edge = EdgeIdentity::join(&token()).unwrap();
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    assert_eq!(edge.validity(now), Validity::Valid);
    assert_eq!(edge.validity(now + 364 * day), Validity::Valid);
    assert_eq!(edge.validity(now + 366 * day), Validity::Expired);
    assert_eq!(edge.validity(now - 2 * day), Validity::NotYet);
}

#[test]
fn an_identity_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    CloudIdentity::init(dir.path()).unwrap();
    let again = CloudIdentity::init(dir.path()).unwrap_err();
    assert!(matches!(again, IdentityError::Exists { .. }), "{again:?}");
    CloudIdentity::load(dir.path()).unwrap();

    let edge = EdgeIdentity::join(&token()).unwrap();
    edge.save(dir.path()).unwrap();
    assert!(matches!(
        edge.save(dir.path()),
        Err(IdentityError::Exists { .. })
    ));
}

#[test]
fn missing_and_damaged_identities_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let missing = CloudIdentity::load(dir.path()).unwrap_err();
    assert!(missing.to_string().contains("cloud-node init"), "{missing}");
    assert!(matches!(
        EdgeIdentity::load(dir.path()),
        Err(IdentityError::Missing { .. })
    ));
    for content in [
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "%%%",
    ] {
        std::fs::write(dir.path().join("edge-identity.pem"), content).unwrap();
        let damaged = EdgeIdentity::load(dir.path());
        assert!(
            matches!(damaged, Err(IdentityError::Damaged { .. })),
            "{damaged:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_keys() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("identity");
    CloudIdentity::init(&home).unwrap();
    EdgeIdentity::join(&token()).unwrap().save(&home).unwrap();
    assert_eq!(mode(&home), 0o700);
    for file in ["cloud-identity.pem", "edge-identity.pem", "enrolment.json"] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn debug_output_holds_no_secret() {
    let domain = Domain::start();
    let token = domain.identity.invite(INVITATION_LIFETIME).unwrap();
    assert_eq!(format!("{token:?}"), "JoinToken([redacted])");
    let edge = EdgeIdentity::join(&token).unwrap();
    assert_eq!(
        format!("{edge:?}"),
        format!("EdgeIdentity {{ name: {:?}, .. }}", edge.name())
    );
    assert_eq!(format!("{:?}", domain.identity), "CloudIdentity { .. }");
}

#[test]
fn a_token_of_mixed_parts_does_not_join() {
    let (ours, theirs) = (CloudIdentity::in_memory().unwrap(), token());
    let authority = theirs.authority().unwrap();
    let mixed = JoinToken::new(ours.credentials().root.clone(), &authority);
    let mixed: JoinToken = mixed.to_string().parse().unwrap();
    let error = EdgeIdentity::join(&mixed).unwrap_err();
    assert!(matches!(error, JoinError::Invitation { .. }), "{error:?}");
}

#[test]
fn a_changed_token_is_refused_wherever_it_is_changed() {
    let word = token().to_string();
    assert_eq!(word.parse::<JoinToken>().unwrap().to_string(), word);
    assert_eq!(
        format!(" {word}\n")
            .parse::<JoinToken>()
            .unwrap()
            .to_string(),
        word
    );
    for at in "epjoin1.".len()..word.len() {
        let mut changed = word.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(
            changed.parse::<JoinToken>(),
            Err(ParseTokenError::Damaged),
            "at {at}"
        );
        assert!(word[..at].parse::<JoinToken>().is_err(), "cut at {at}");
    }
}

proptest! {
    #[test]
    fn arbitrary_words_never_panic(word: String, encoded in "[A-Za-z0-9_-]{0,400}") {
        prop_assert!(word.parse::<JoinToken>().is_err());
        let word = format!("epjoin1.{encoded}");
        prop_assert!(word.parse::<JoinToken>().is_err());
    }

    #[test]
    fn arbitrary_contents_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        use base64::Engine;
        let sum = blake3::hash(&bytes);
        let whole = [&bytes[..], &sum.as_bytes()[..8]].concat();
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(whole);
        let word = format!("epjoin1.{encoded}");
        prop_assert!(word.parse::<JoinToken>().is_err());
    }
}
