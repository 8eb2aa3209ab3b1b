//! What links learn of their paths, at both ends, and what the next link makes of it.

use super::{Domain, any_port, check_fetch, config, fetch_of};
use crate::{BitRate, CongestionControl, EdgeEndpoint, LinkConfig};

#[tokio::test]
async fn both_ends_estimate_the_path_once_layers_have_come() {
    let domain = Domain::start();
    let (link, _edge, _server) = domain.serve_edge().await;
    assert_eq!(link.estimate(), None);
    // Six layers of 200 KiB: more than a sample.
    check_fetch(&link, fetch_of(1)).await;
    let estimate = link.estimate().unwrap();
    println!("{estimate:?}");
    assert!(estimate.rate > BitRate::ZERO);
    assert!(!estimate.rtt.is_zero());
}

#[tokio::test]
async fn a_cloud_remembers_the_path_to_an_edge() {
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    for number in 0..3 {
        let link = edge.connect(domain.addr).await.unwrap();
        let mut edge_link = domain.cloud.accept().await.unwrap();
        let (path, memory) = (edge_link.link.path.clone(), edge_link.link.memory.clone());
        assert_eq!(memory.recall(&path).is_some(), number > 0);
        // A rate is that of a whole round, and one small fetch may be shorter.
        while edge_link.estimate().is_none() {
            let serve = async { super::answer(edge_link.next_request().await.unwrap()).await };
            let fetch = fetch_of(link.next_fetch_id().0);
            tokio::join!(check_fetch(&link, fetch), serve);
        }
        drop(edge_link);
        link.closed().await;
        assert!(memory.recall(&path).is_some());
    }
}

#[tokio::test]
async fn layers_come_under_every_congestion_control() {
    for congestion_control in [CongestionControl::Cubic, CongestionControl::Bbr] {
        let config = LinkConfig {
            congestion_control,
            ..config()
        };
        let domain = Domain::start_with(config);
        let (link, _edge, _server) = domain.serve_edge().await;
        check_fetch(&link, fetch_of(1)).await;
    }
}
