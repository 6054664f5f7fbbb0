//! Roles, as seen by clients of other users. These are made by running this test again with other credentials.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use profiler_daemon::api::access::Access;
use profiler_proto::v1::{
    GetStatusRequest, ListProcessesRequest, QueryProfileRequest, WatchProcessRequest,
    process_service_client::ProcessServiceClient, profile_service_client::ProfileServiceClient,
    status_service_client::StatusServiceClient, watch_service_client::WatchServiceClient,
};
use tonic::{Code, Status};

use crate::{
    double::process,
    server::{Server, connect},
};

/// Names the socket for the run that is a client.
const CLIENT: &str = "PROFILER_TEST_CLIENT_SOCKET";
/// A user and groups that nobody has.
const USER: &str = "54321";
const READ_GROUP: &str = "54322";
const OTHER_GROUP: &str = "54323";

/// The code with which each request was answered.
async fn codes(path: &Path) -> Vec<Code> {
    let Ok(channel) = connect(path).await else {
        return Vec::new();
    };
    let code = |answer: Result<(), Status>| answer.map_or_else(|status| status.code(), |()| Code::Ok);
    let list = ListProcessesRequest { pid: None };
    let query = QueryProfileRequest::default();
    vec![
        code(
            StatusServiceClient::new(channel.clone())
                .get_status(GetStatusRequest {})
                .await
                .map(|_| ()),
        ),
        code(
            ProcessServiceClient::new(channel.clone())
                .list_processes(list)
                .await
                .map(|_| ()),
        ),
        code(
            ProfileServiceClient::new(channel.clone())
                .query_profile(query)
                .await
                .map(|_| ()),
        ),
        code(
            WatchServiceClient::new(channel)
                .watch_process(WatchProcessRequest { pid: 7 })
                .await
                .map(|_| ()),
        ),
    ]
}

/// What a client with these supplementary groups sees.
fn seen_by(program: &Path, groups: &str, socket: &Path) -> String {
    let client = Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--groups", groups])
        .arg(program)
        .args(["--exact", "access::roles_of_other_users", "--nocapture"])
        .env(CLIENT, socket)
        .output()
        .expect("setpriv");
    let output = String::from_utf8_lossy(&client.stdout).into_owned();
    let seen = output.split_once("seen: ").and_then(|(_, rest)| rest.lines().next());
    seen.unwrap_or_else(|| panic!("{client:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_other_users() {
    if let Some(socket) = std::env::var_os(CLIENT) {
        println!("seen: {:?}", codes(&PathBuf::from(socket)).await);
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let (access, missing) = Access::resolve(Path::new("/nowhere"), 0, READ_GROUP, "");
    assert!(missing.is_empty(), "numbers need no name");
    let server = Server::with_access(access);
    server.script.lock().processes = vec![process(7)];
    let socket = server.path();
    fs::set_permissions(server.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The other user may not be able to reach this program where it lies.
    let program = server.directory.path().join("client");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let seen = |groups: &'static str| {
        let (program, socket) = (program.clone(), socket.clone());
        tokio::task::spawn_blocking(move || seen_by(&program, groups, &socket))
    };
    assert_eq!(
        codes(&socket).await,
        [Code::Ok, Code::Ok, Code::InvalidArgument, Code::Ok]
    );
    // A supplementary group opens the socket and gives the roles.
    assert_eq!(seen(READ_GROUP).await.unwrap(), "[Ok, Ok, InvalidArgument, Ok]");
    // Without it the socket cannot even be opened.
    assert_eq!(seen(OTHER_GROUP).await.unwrap(), "[]");
    // And if it could be, nothing is told.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        seen(OTHER_GROUP).await.unwrap(),
        "[PermissionDenied, PermissionDenied, PermissionDenied, PermissionDenied]"
    );
}
