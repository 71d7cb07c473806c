//! Who imports whom: the rooms of the house, and what each may name.

use super::source::{Mention, Source};

/// The rooms, from the base up. A room is a module with everything below it that is no room itself; `simulator/` is the
/// root of the crate `fuota_simulator`. PURE rooms are functions of their inputs: no clock, no entropy, no input or
/// output. `cli` is a client of the API like any other; it names `firmware` because private keys stay with their
/// owners: what is signed is signed there.
const TABLE: &str = "
    time                       PURE  ->
    erasure                    PURE  ->
    lorawan                    PURE  -> time
    firmware                   PURE  -> time
    record                     PURE  -> time lorawan firmware
    task                       PURE  -> time lorawan firmware erasure record
    campaign                   PURE  -> time lorawan firmware erasure record task
    rollout                    PURE  -> time lorawan record
    dialogue                   PURE  -> time lorawan firmware erasure record task
    network                    PORT  -> time lorawan firmware record
    network/native             PURE  -> time lorawan firmware record network
    network/native/semtech     PURE  -> time lorawan record network network/native
    network/native/udp         SHELL -> time lorawan record network network/native network/native/semtech
    store                      PORT  -> time lorawan firmware record
    runtime                    SHELL -> time lorawan firmware erasure record task campaign dialogue network
                                        network/native network/native/udp store
    proto                      EDGE  ->
    api                        EDGE  -> time lorawan firmware record task rollout store runtime proto
    web                        EDGE  -> time lorawan firmware record task store runtime
    cli                        EDGE  -> firmware proto
    serve                      EDGE  -> time lorawan record campaign network network/native network/native/udp store
                                        runtime api web
    main                       EDGE  -> runtime serve cli

    simulator/random           PURE  ->
    simulator/bound            PURE  -> simulator/random
    simulator/beacon           PURE  -> time lorawan
    simulator/device           PURE  -> time lorawan firmware erasure simulator/random simulator/beacon
    simulator/gateway          PURE  -> time lorawan simulator/random simulator/rule_watch simulator/beacon
    simulator/rule_watch       PURE  -> time lorawan simulator/gateway
    simulator/semtech          PURE  -> time lorawan simulator/gateway
    simulator/propagation      PURE  -> lorawan simulator/random
    simulator/channel          PURE  -> time lorawan simulator/random simulator/gateway simulator/propagation
    simulator/lab              PURE  -> time lorawan firmware erasure simulator/random simulator/channel
                                        simulator/gateway simulator/device
    simulator/udp              SHELL -> time lorawan simulator/gateway simulator/semtech
    simulator/realtime         SHELL -> time lorawan simulator/gateway simulator/device simulator/lab
                                        simulator/semtech simulator/udp simulator/counter_watch
    simulator/counter_watch    PURE  -> lorawan
    simulator/checkers         SHELL -> time lorawan record simulator/gateway simulator/device simulator/lab
                                        simulator/counter_watch
    simulator/world            SHELL -> time lorawan record campaign network network/native store runtime
                                        simulator/random simulator/gateway simulator/device simulator/channel
                                        simulator/lab simulator/checkers
    simulator/fleet            EDGE  -> lorawan firmware proto simulator/random simulator/device simulator/channel
                                        simulator/gateway simulator/lab
    simulator/check            EDGE  -> time lorawan firmware record runtime simulator/random simulator/channel
                                        simulator/gateway simulator/device simulator/lab simulator/fleet
                                        simulator/world simulator/checkers simulator/scene simulator/image_set
    simulator/image_set        EDGE  -> firmware record simulator/check simulator/device simulator/fleet
                                        simulator/random
    simulator/scene            EDGE  -> time lorawan firmware record runtime simulator/device simulator/fleet
                                        simulator/world simulator/checkers simulator/check simulator/random
                                        simulator/image_set
    simulator/minimise         EDGE  -> lorawan simulator/check simulator/checkers simulator/fleet simulator/world
                                        simulator/image_set
    simulator/operator         EDGE  -> proto
    simulator/server           EDGE  ->
    simulator/demo             EDGE  -> time lorawan proto simulator/bound simulator/channel simulator/gateway
                                        simulator/device simulator/lab simulator/realtime simulator/fleet
                                        simulator/operator simulator/server
    simulator/lab_command      EDGE  -> proto simulator/demo simulator/device simulator/fleet simulator/image_set
                                        simulator/realtime
    simulator/redundancy       EDGE  -> time lorawan record simulator/bound simulator/channel simulator/check
                                         simulator/device simulator/fleet simulator/lab simulator/scene
                                         simulator/world
    simulator/redundancy_command EDGE -> simulator/fleet simulator/redundancy
    simulator/energy           PURE  -> simulator/device
    simulator/svg              PURE  ->
    simulator/calibration      EDGE  -> time lorawan record simulator/check simulator/device simulator/energy
                                         simulator/fleet simulator/scene simulator/world
    simulator/report           EDGE  -> time lorawan record simulator/checkers simulator/device simulator/energy
                                         simulator/gateway simulator/scenario simulator/svg simulator/world
    simulator/report_command   EDGE  -> simulator/report simulator/scenario
    simulator/compare          EDGE  -> time lorawan simulator/bound simulator/device simulator/energy simulator/fleet
                                         simulator/redundancy
    simulator/compare_drawing  PURE  -> simulator/compare simulator/redundancy simulator/svg
    simulator/compare_command  EDGE  -> simulator/compare simulator/compare_drawing
    simulator/scale            EDGE  -> time lorawan record simulator/check simulator/checkers simulator/device
                                        simulator/fleet simulator/scene simulator/world
    simulator/scale_command    EDGE  -> simulator/scale
    simulator/forecast         EDGE  -> time lorawan record task simulator/check simulator/device simulator/fleet
                                         simulator/random simulator/scene simulator/world
    simulator/forecast_command EDGE  -> simulator/forecast
    simulator/scenario         EDGE  -> time lorawan firmware record runtime simulator/channel simulator/check
                                        simulator/checkers simulator/device simulator/gateway simulator/lab
                                        simulator/propagation simulator/random simulator/world
    simulator/live_records     EDGE  -> time lorawan proto record simulator/device simulator/fleet
    simulator/run_live         EDGE  -> time lorawan proto record simulator/device simulator/fleet
                                        simulator/live_records simulator/operator simulator/realtime
                                        simulator/scenario
    simulator/run_command      EDGE  -> simulator/run_live simulator/scenario
    simulator/main             EDGE  -> simulator/check simulator/demo simulator/fleet simulator/lab_command
                                         simulator/minimise simulator/redundancy_command simulator/forecast_command
                                         simulator/run_command simulator/scale_command
                                         simulator/report_command simulator/compare_command simulator/image_set
                                         simulator/calibration simulator/energy
";

/// Crates that PURE rooms do not name.
const CRATES_BANNED: [&str; 10] = [
    "tokio",
    "sqlx",
    "tonic",
    "tracing",
    "rand",
    "rand_core",
    "getrandom",
    "chrono",
    "axum",
    "hyper",
];
/// Modules of `std` that PURE rooms do not name.
const STD_BANNED: [&str; 5] = ["fs", "net", "process", "env", "thread"];
/// Words that PURE rooms do not contain, and what to use.
const WORDS_BANNED: [(&str, &str); 4] = [
    ("Instant", "a Timestamp argument"),
    ("SystemTime", "a Timestamp argument"),
    ("HashMap", "BTreeMap"),
    ("HashSet", "BTreeSet"),
];

/// One row of the table.
#[derive(Clone, Debug)]
struct Room {
    name: String,
    pure: bool,
    may: Vec<String>,
}

/// The table, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Rooms(Vec<Room>);

impl Rooms {
    /// The rooms of this house.
    pub(super) fn of_the_house() -> Self {
        Self::read(TABLE)
    }

    /// Reads a table: `name KIND -> what it may name`; a line without an arrow goes on with the row above.
    pub(super) fn read(table: &str) -> Self {
        let mut rooms: Vec<Room> = Vec::new();
        for line in table.lines().filter(|line| !line.trim().is_empty()) {
            let (head, may) = line.split_once("->").unwrap_or(("", line));
            let may = may.split_whitespace().map(str::to_owned);
            let head: Vec<&str> = head.split_whitespace().collect();
            match (&head[..], rooms.last_mut()) {
                ([name, kind], _) => rooms.push(Room {
                    name: (*name).to_owned(),
                    pure: *kind == "PURE",
                    may: may.collect(),
                }),
                ([], Some(room)) => room.may.extend(may),
                _ => panic!("row of the table: {line:?}"),
            }
        }
        let known = |name: &String| rooms.iter().any(|room| room.name == *name);
        for room in &rooms {
            assert!(
                room.may.iter().all(known),
                "{} may name what is no room",
                room.name
            );
        }
        Self(rooms)
    }

    /// The room of a place such as `network/native/air`: the longest row that leads there.
    fn room(&self, place: &str) -> Option<&Room> {
        let leads = |room: &&Room| {
            let rest = place.strip_prefix(room.name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0
            .iter()
            .filter(leads)
            .max_by_key(|room| room.name.len())
    }

    /// What is wrong with the file of the module at `place`.
    pub(super) fn faults(&self, place: &str, source: &Source) -> Vec<(usize, String)> {
        let Some(room) = self.room(place) else {
            return vec![(
                1,
                format!("`{place}` is in no row of the table in tests/suite/tidy/rooms.rs"),
            )];
        };
        let mentions = source.mentions.iter().filter(|mention| !mention.test);
        let mut faults: Vec<_> = mentions
            .clone()
            .filter_map(|mention| Some((mention.line, self.import_fault(room, mention)?)))
            .collect();
        if room.pure {
            let banned =
                mentions.filter_map(|mention| Some((mention.line, path_banned(&mention.path)?)));
            faults.extend(banned);
            for token in source.tokens.iter().filter(|token| !token.test) {
                let banned = WORDS_BANNED.iter().find(|(word, _)| token.text == *word);
                faults.extend(banned.map(|(word, instead)| {
                    (token.line, format!("{word} in a PURE layer; use {instead}"))
                }));
            }
        }
        faults
    }

    fn import_fault(&self, room: &Room, mention: &Mention) -> Option<String> {
        let place = place(&mention.path)?;
        let Some(target) = self.room(&place) else {
            return Some(format!("`{}` leads to no room", mention.path.join("::")));
        };
        let allowed = target.name == room.name || room.may.contains(&target.name);
        (!allowed).then(|| format!("`{}` may not import `{}`", room.name, target.name))
    }
}

/// Where a path within the workspace leads; nothing for other crates and for items at the root of a binary.
fn place(path: &[String]) -> Option<String> {
    let (krate, rest) = path.split_first()?;
    match krate.as_str() {
        "lorawan_fuota" => Some(rest.join("/")),
        "fuota_simulator" => Some(format!("simulator/{}", rest.join("/"))),
        _ => None,
    }
}

fn path_banned(path: &[String]) -> Option<String> {
    let first = path.first()?;
    let second = path.get(1).map_or("", String::as_str);
    let banned =
        CRATES_BANNED.contains(&first.as_str()) || (first == "std" && STD_BANNED.contains(&second));
    banned.then(|| format!("`{}` in a PURE layer", path.join("::")))
}
