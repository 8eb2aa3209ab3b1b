//! Edges that link to each other: any two of one trust domain, and nobody else.

use super::{Domain, any_port, check_fetch, config, fetch_of, serve};
use crate::{CloudEndpoint, ConnectError, EdgeEndpoint};

#[tokio::test]
async fn an_edge_serves_another_edge_that_it_never_heard_of() {
    let domain = Domain::start();
    let serving = domain.join();
    let endpoint = CloudEndpoint::bind_for_neighbours(any_port(), &serving, config()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let server = tokio::spawn(serve(endpoint));
    // The cloud has not admitted either of them.
    let asking = EdgeEndpoint::bind_for_neighbours(any_port(), &domain.join(), config()).unwrap();
    let link = asking.connect(addr).await.unwrap();
    check_fetch(&link, fetch_of(0)).await;
    server.abort();
}

#[tokio::test]
async fn an_edge_of_another_domain_is_refused() {
    let (here, elsewhere) = (Domain::start(), Domain::start());
    let endpoint = CloudEndpoint::bind_for_neighbours(any_port(), &here.join(), config()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let stranger = EdgeEndpoint::bind_for_neighbours(any_port(), &elsewhere.join(), config());
    let refused = stranger.unwrap().connect(addr).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::CloudNotTrusted { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_cloud_is_no_neighbour_and_a_neighbour_no_cloud() {
    let domain = Domain::start();
    let edge = domain.join();
    let towards_edges = EdgeEndpoint::bind_for_neighbours(any_port(), &edge, config()).unwrap();
    let refused = towards_edges.connect(domain.addr).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::CloudNotTrusted { .. }),
        "{refused:?}"
    );
    let posing = CloudEndpoint::bind_for_neighbours(any_port(), &domain.join(), config()).unwrap();
    let towards_cloud = EdgeEndpoint::bind(any_port(), &edge, config()).unwrap();
    let addr = posing.local_addr().unwrap();
    let refused = towards_cloud.connect(addr).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::CloudNotTrusted { .. }),
        "{refused:?}"
    );
}
