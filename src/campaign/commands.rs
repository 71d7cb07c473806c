//! What can be asked of a device, and how it is put into bytes.

use crate::lorawan::{PackageVersion, firmware_management, fragmentation, multicast_setup};
use crate::record::{CleanupState, FleetDevice, TaskDevice};

use super::Campaign;
use super::completion::frag_index_to_delete;

/// Something to ask a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `PackageVersionReq` of TS004.
    ProbeFragmentation,
    /// `McGroupSetupReq` and the session request in one frame, with `PackageVersionReq` as long as the version of
    /// TS005 is unknown: these commands are the same in all versions, so that nothing can be misread.
    GroupAndWindow,
    /// `McClassCSessionReq` or `McClassBSessionReq`.
    Window,
    /// `ForceDeviceResyncReq`.
    Resync,
    /// `FragSessionSetupReq`.
    FragSession,
    /// `DataFragment`; not answered.
    Fragment,
    /// `FragSessionStatusReq` by unicast.
    Status,
    /// `FragDataBlockReceivedAns`.
    Acknowledge,
    /// `DevUpgradeImageReq`.
    CheckImage,
    /// `DevRebootCountdownReq`.
    Reboot,
    /// `DevRebootTimeReq`.
    RebootAt,
    /// The downlink by which the application of a device without TS006 is told to reboot.
    ApplicationReboot,
    /// `DevVersionReq`.
    Version,
    /// `DevDeleteImageReq`.
    DeleteImage,
    /// `FragSessionDeleteReq`.
    DeleteFragSession,
    /// `McGroupDeleteReq`.
    DeleteGroup,
}

impl Command {
    /// Nothing is lost if it leaves at a later uplink of the device.
    pub(super) fn can_wait(self) -> bool {
        matches!(
            self,
            Self::CheckImage
                | Self::Reboot
                | Self::RebootAt
                | Self::ApplicationReboot
                | Self::Version
                | Self::DeleteImage
                | Self::DeleteFragSession
                | Self::DeleteGroup
        )
    }

    /// The name to write in evidence.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ProbeFragmentation => "PackageVersionReq",
            Self::GroupAndWindow => "McGroupSetupReq",
            Self::Window => "the session request",
            Self::Resync => "ForceDeviceResyncReq",
            Self::FragSession => "FragSessionSetupReq",
            Self::Fragment => "DataFragment",
            Self::Status => "FragSessionStatusReq",
            Self::Acknowledge => "FragDataBlockReceivedAns",
            Self::CheckImage => "DevUpgradeImageReq",
            Self::Reboot => "DevRebootCountdownReq",
            Self::RebootAt => "DevRebootTimeReq",
            Self::ApplicationReboot => "the application's reboot downlink",
            Self::Version => "DevVersionReq",
            Self::DeleteImage => "DevDeleteImageReq",
            Self::DeleteFragSession => "FragSessionDeleteReq",
            Self::DeleteGroup => "McGroupDeleteReq",
        }
    }
}

impl Campaign {
    /// Port and payload of a command; `None` when the device has not got the package (the plan saw to it that it has).
    pub(super) fn words(&self, command: Command, device: &FleetDevice) -> Option<(u8, Vec<u8>)> {
        let packages = &device.profile.packages;
        let record = self.devices.get(&device.settings.dev_eui)?;
        let mut out = Vec::new();
        let package = match command {
            Command::Resync => {
                let package = packages.clock_sync?;
                use crate::lorawan::clock_sync::{DownlinkCommand, ForceDeviceResyncCmd};
                DownlinkCommand::ForceDeviceResyncCmd(ForceDeviceResyncCmd {
                    nb_transmissions: 3,
                })
                .encode(package.version, &mut out);
                package
            }
            Command::GroupAndWindow | Command::Window | Command::DeleteGroup => {
                let package = packages.multicast_setup?;
                for command in self.multicast_words(command, device, record)? {
                    command.encode(package.version, &mut out);
                }
                package
            }
            Command::ProbeFragmentation
            | Command::FragSession
            | Command::Fragment
            | Command::Status
            | Command::Acknowledge
            | Command::DeleteFragSession => {
                let package = packages.fragmentation?;
                self.fragmentation_words(command, device, record)?
                    .encode(package.version, &mut out);
                package
            }
            Command::ApplicationReboot => {
                let downlink = device.profile.application_reboot.as_ref()?;
                return Some((downlink.f_port, downlink.payload.clone()));
            }
            Command::CheckImage
            | Command::Reboot
            | Command::RebootAt
            | Command::Version
            | Command::DeleteImage => {
                use firmware_management::{DevDeleteImageReq, DownlinkCommand};
                let package = packages.firmware_management?;
                let command = match command {
                    Command::CheckImage => DownlinkCommand::DevUpgradeImageReq,
                    Command::Version => DownlinkCommand::DevVersionReq,
                    Command::DeleteImage => {
                        let mut discard = record.images.iter().flat_map(|c| &c.discard);
                        let pending =
                            discard.find(|(_, state)| **state == CleanupState::Pending)?;
                        DownlinkCommand::DevDeleteImageReq(DevDeleteImageReq {
                            firmware_to_delete_version: *pending.0,
                        })
                    }
                    _ => self.reboot_words(command)?,
                };
                command.encode(PackageVersion::V1, &mut out);
                package
            }
        };
        Some((package.f_port, out))
    }

    fn multicast_words(
        &self,
        command: Command,
        device: &FleetDevice,
        record: &TaskDevice,
    ) -> Option<Vec<multicast_setup::DownlinkCommand>> {
        use multicast_setup::{
            DownlinkCommand, McClassBSessionReq, McClassCSessionReq, McGroupDeleteReq,
        };
        let session = self.session_of(record)?;
        let mc_group_id = session.record.mc_group_id;
        let window = || {
            let window = session.record.window;
            let start = record.setup.late_start.unwrap_or(window.start);
            let session_time = start.to_gps().wire_seconds();
            let (dl_freq_hz, dr) = (session.record.frequency_hz, session.record.data_rate);
            match session.record.ping_slots {
                Some(periodicity) => DownlinkCommand::McClassBSessionReq(McClassBSessionReq {
                    mc_group_id,
                    session_time,
                    periodicity: periodicity.number(),
                    session_time_out: window.wire_time_out(),
                    dl_freq_hz,
                    dr,
                }),
                None => DownlinkCommand::McClassCSessionReq(McClassCSessionReq {
                    mc_group_id,
                    session_time,
                    session_time_out: window.wire_time_out(),
                    dl_freq_hz,
                    dr,
                }),
            }
        };
        Some(match command {
            Command::GroupAndWindow => {
                let known = device
                    .status
                    .capabilities
                    .contains_key(&multicast_setup::PACKAGE_IDENTIFIER);
                let probe = (!known).then_some(DownlinkCommand::PackageVersionReq);
                probe
                    .into_iter()
                    .chain([self.group_setup(session, device)?, window()])
                    .collect()
            }
            Command::Window => vec![window()],
            _ => vec![DownlinkCommand::McGroupDeleteReq(McGroupDeleteReq {
                mc_group_id,
            })],
        })
    }

    fn fragmentation_words(
        &self,
        command: Command,
        device: &FleetDevice,
        record: &TaskDevice,
    ) -> Option<fragmentation::DownlinkCommand> {
        use fragmentation::{
            DownlinkCommand, FragDataBlockReceivedAns, FragSessionDeleteReq, FragSessionStatusReq,
        };
        let session = self.session_of(record)?;
        let frag_index = session.record.block.frag_index;
        Some(match command {
            Command::ProbeFragmentation => DownlinkCommand::PackageVersionReq,
            Command::FragSession => self.frag_session_setup(session, device, record),
            Command::Status => DownlinkCommand::FragSessionStatusReq(FragSessionStatusReq {
                frag_index,
                participants: true,
            }),
            Command::Acknowledge => {
                let frag_index = self.talks.get(&record.dev_eui)?.acknowledge?;
                DownlinkCommand::FragDataBlockReceivedAns(FragDataBlockReceivedAns { frag_index })
            }
            _ => DownlinkCommand::FragSessionDeleteReq(FragSessionDeleteReq {
                frag_index: frag_index_to_delete(record, frag_index)?,
            }),
        })
    }
}
