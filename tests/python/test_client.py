"""The API as a client in another language sees it: generated from proto/, against a real server and simulated devices.

`fuota serve` and `fuota-sim lab` run as children on free loopback ports. `FUOTA_BIN_DIR` names the folder of the binaries
(default target/debug), PYTHONPATH the folder of the generated client; tests/run.sh sets both. Every wait has a deadline,
no child outlives the run, and the children's logs are printed when anything failed.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from fuota.v1 import (
    device_pb2,
    device_pb2_grpc,
    device_profile_pb2,
    device_profile_pb2_grpc,
    gateway_pb2,
    gateway_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    region_pb2,
    task_pb2,
    task_pb2_grpc,
    trust_pb2,
    trust_pb2_grpc,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("FUOTA_BIN_DIR", ROOT / "target" / "debug"))

START_SECONDS = 30
CALL_SECONDS = 20
JOIN_SECONDS = 90
TASK_SECONDS = 300
# Messages of the first watch before it is broken off: the task and all devices, and some changes.
WATCHED_FIRST = 8
CHUNK_BYTES = 4096

SERVICES = [
    "fuota.v1.DeviceProfileService",
    "fuota.v1.DeviceService",
    "fuota.v1.GatewayService",
    "fuota.v1.ImageService",
    "fuota.v1.MulticastGroupService",
    "fuota.v1.NetworkService",
    "fuota.v1.TaskService",
]


class Child:
    """A child process whose first line of output is a JSON object. Its error output is its log."""

    def __init__(self, folder, *command):
        self.name = pathlib.Path(command[0]).name
        self.log_path = pathlib.Path(folder) / f"{self.name}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        # Ends the wait for the first line, whatever the child does.
        guard = threading.Timer(START_SECONDS, self.process.kill)
        guard.start()
        first = self.process.stdout.readline()
        guard.cancel()
        try:
            self.said = json.loads(first)
        except ValueError:
            self.stop()
            raise AssertionError(f"{self.name}: first line {first!r}\n{self.log()}") from None
        # Whatever it prints later must not block it.
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self):
        for _ in self.process.stdout:
            pass

    def stop(self):
        self.process.kill()
        self.process.wait()

    def log(self):
        return self.log_path.read_text(errors="replace")


class Result(unittest.TextTestResult):
    """Remembers nothing new; prints the children's logs with a failure, while they are there."""

    def _dump(self, test):
        for child in getattr(type(test), "children", []):
            print(f"--- log of {child.name}, last 200 lines", file=sys.stderr)
            print("\n".join(child.log().splitlines()[-200:]), file=sys.stderr)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._dump(test)

    def addError(self, test, err):
        super().addError(test, err)
        self._dump(test)


def until(what, seconds, ask):
    """Asks until the answer is true; fails after `seconds`. The API has no stream for what is asked here."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds} s: {what}")


def new_id():
    return uuid.uuid4().hex


def bad_fields(error):
    """The fields that an INVALID_ARGUMENT names in its details."""
    found = []
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [violation.field for violation in bad.field_violations]
    return found


def reasons(error):
    """The reasons that an error gives in its details."""
    found = []
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            found.append(info.reason)
    return found


class Served(unittest.TestCase):
    """One server for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.children = []
        folder = tempfile.TemporaryDirectory(prefix="fuota-python-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        data = pathlib.Path(cls.folder) / "data"
        serve = [BINARIES / "fuota", "serve", "--grpc", "127.0.0.1:0", "--udp", "127.0.0.1:0"]
        cls.server = cls.start(*serve, "--data", data, "--print-ports")
        cls.channel = grpc.insecure_channel(cls.server.said["grpc"])
        cls.addClassCleanup(cls.channel.close)
        grpc.channel_ready_future(cls.channel).result(timeout=START_SECONDS)
        cls.profiles = device_profile_pb2_grpc.DeviceProfileServiceStub(cls.channel)
        cls.devices = device_pb2_grpc.DeviceServiceStub(cls.channel)
        cls.gateways = gateway_pb2_grpc.GatewayServiceStub(cls.channel)
        cls.images = image_pb2_grpc.ImageServiceStub(cls.channel)
        cls.trust = trust_pb2_grpc.TrustServiceStub(cls.channel)
        cls.tasks = task_pb2_grpc.TaskServiceStub(cls.channel)

    @classmethod
    def start(cls, *command):
        child = Child(cls.folder, *command)
        cls.children.append(child)
        cls.addClassCleanup(child.stop)
        return child

    def refused(self, code, call, request):
        """The error of a call that has to be refused with `code`."""
        with self.assertRaises(grpc.RpcError) as caught:
            call(request, timeout=CALL_SECONDS)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception


class Calls(Served):
    """Single calls: errors, repeats, and what every gRPC server should answer."""

    def test_bad_input_names_the_field(self):
        gateway = gateway_pb2.Gateway(eui="no eui", region=region_pb2.REGION_US915)
        request = gateway_pb2.CreateGatewayRequest(gateway=gateway)
        error = self.refused(grpc.StatusCode.INVALID_ARGUMENT, self.gateways.CreateGateway, request)
        self.assertEqual(bad_fields(error), ["gateway.eui"])

    def test_a_repeat_gets_the_first_answer(self):
        gateway = gateway_pb2.Gateway(eui="00000000000000a1", region=region_pb2.REGION_US915)
        request = gateway_pb2.CreateGatewayRequest(gateway=gateway, request_id=new_id())
        first = self.gateways.CreateGateway(request, timeout=CALL_SECONDS)
        again = self.gateways.CreateGateway(request, timeout=CALL_SECONDS)
        self.assertEqual(first.name, "gateways/00000000000000a1")
        self.assertEqual(again, first)

        other = gateway_pb2.CreateGatewayRequest()
        other.CopyFrom(request)
        other.gateway.display_name = "another request under the same id"
        error = self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.gateways.CreateGateway, other)
        self.assertEqual(reasons(error), ["REQUEST_ID_REUSED"])

        request.request_id = new_id()
        self.refused(grpc.StatusCode.ALREADY_EXISTS, self.gateways.CreateGateway, request)

    def test_every_service_reports_that_it_serves(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in ["", *SERVICES]:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health.Check(request, timeout=CALL_SECONDS)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING, service)

    def test_reflection_lists_the_services(self):
        for version in ["v1", "v1alpha"]:
            # The messages of both versions are alike.
            ask = self.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            answer = next(ask(iter([request]), timeout=CALL_SECONDS))
            listed = {service.name for service in answer.list_services_response.service}
            self.assertLessEqual(set(SERVICES), listed, version)


class Simulated(Served):
    """A server with three simulated devices, and what an operator does to them."""

    def enter(self, *options):
        """Starts a lab and enters all of it. Returns it, its devices, and when they have joined."""
        simulator = [BINARIES / "fuota-sim", "lab", "--udp", self.server.said["udp"]]
        lab = self.start(*simulator, "--devices", 3, "--gateways", 1, "--json", *options).said
        self.assertEqual(len(lab["devices"]), 3)
        self.enter_gateways(lab)
        devices = self.enter_devices(lab)
        self.trust.ImportTrustedKey(
            trust_pb2.ImportTrustedKeyRequest(
                trusted_key=trust_pb2.TrustedKey(public_key_pem=lab["public_key_pem"])
            ),
            timeout=CALL_SECONDS,
        )
        until("every gateway is online", JOIN_SECONDS, lambda: self.gateways_online(lab))
        until("every device has joined", JOIN_SECONDS, lambda: self.joined(devices))
        return lab, devices
    def enter_gateways(self, lab):
        region = region_pb2.Region.Value("REGION_" + lab["region"])
        for fields in lab["gateways"]:
            gateway = json_format.ParseDict(fields, gateway_pb2.Gateway(region=region))
            request = gateway_pb2.CreateGatewayRequest(gateway=gateway, request_id=new_id())
            self.gateways.CreateGateway(request, timeout=CALL_SECONDS)

    def enter_devices(self, lab):
        profile = json_format.ParseDict(lab["profile"], device_profile_pb2.DeviceProfile())
        request = device_profile_pb2.CreateDeviceProfileRequest(
            device_profile=profile, device_profile_id="simulated", request_id=new_id()
        )
        profile = self.profiles.CreateDeviceProfile(request, timeout=CALL_SECONDS)
        self.assertEqual(profile.name, "deviceProfiles/simulated")
        requests = []
        for fields in lab["devices"]:
            device = device_pb2.EndDevice(dev_eui=fields["dev_eui"], device_profile=profile.name)
            device.root_keys.gen_app_key = bytes.fromhex(fields["gen_app_key"])
            device.otaa.join_eui = fields["join_eui"]
            device.otaa.app_key = bytes.fromhex(fields["app_key"])
            requests.append(device_pb2.CreateDeviceRequest(device=device))
        request = device_pb2.BatchCreateDevicesRequest(requests=requests, request_id=new_id())
        answer = self.devices.BatchCreateDevices(request, timeout=CALL_SECONDS)
        self.assertEqual(answer.created_count, len(requests), answer.results)
        made = [result.device for result in answer.results]
        for device in made:
            self.assertEqual(device.root_keys.gen_app_key, b"", "a key was given out")
            self.assertEqual(device.otaa.app_key, b"", "a key was given out")
        return [device.name for device in made]

    def upload(self, path, target_version, component="main"):
        content = pathlib.Path(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()

        def messages():
            yield image_pb2.UploadImageRequest(
                metadata=image_pb2.ImageMetadata(
                    container=image_pb2.IMAGE_CONTAINER_MCUBOOT,
                    file_name="firmware.bin",
                    component=component,
                    target_version=target_version,
                    expected_sha256=digest,
                    activate=True,
                )
            )
            for at in range(0, len(content), CHUNK_BYTES):
                yield image_pb2.UploadImageRequest(chunk=content[at : at + CHUNK_BYTES])

        image = self.images.UploadImage(messages(), timeout=CALL_SECONDS)
        self.assertTrue(image.signed_by)
        self.assertEqual(image.name, f"images/{digest}")
        self.assertEqual(image.size_bytes, len(content))
        # The same bytes again are the same image.
        self.assertEqual(self.images.UploadImage(messages(), timeout=CALL_SECONDS), image)
        return image

    def gateways_online(self, lab):
        names = ["gateways/" + fields["eui"] for fields in lab["gateways"]]
        requests = [gateway_pb2.GetGatewayRequest(name=name) for name in names]
        found = [self.gateways.GetGateway(request, timeout=CALL_SECONDS) for request in requests]
        return all(gateway.state == gateway_pb2.GATEWAY_STATE_ONLINE for gateway in found)

    def joined(self, devices):
        requests = [device_pb2.GetDeviceRequest(name=name) for name in devices]
        found = [self.devices.GetDevice(request, timeout=CALL_SECONDS) for request in requests]
        return all(device.HasField("session") for device in found)

    def create_task(self, lab, images, devices):
        task = task_pb2.FuotaTask(
            display_name="python",
            images=[image.name for image in images],
            success_criterion=task_pb2.SUCCESS_CRITERION_RUNNING,
            device_class=region_pb2.DEVICE_CLASS_C,
            data_rate=lab["data_rate"],
        )
        request = task_pb2.CreateTaskRequest(task=task, task_id="python", devices=devices, request_id=new_id())
        made = self.tasks.CreateTask(request, timeout=CALL_SECONDS)
        self.assertEqual(made.state, task_pb2.TASK_STATE_DRAFT)
        self.assertEqual(made.device_counts.total, len(devices))
        self.assertEqual(self.tasks.CreateTask(request, timeout=CALL_SECONDS), made)
        return made


class WholeTask(Simulated):
    """From nothing to three devices that run the new version."""

    def test_a_task_brings_every_device_to_the_new_version(self):
        lab, devices = self.enter("--seed", 7)
        image = self.upload(lab["image_path"], lab["target_version"])
        task = self.create_task(lab, [image], devices)
        plan = self.tasks.PlanTask(task_pb2.PlanTaskRequest(name=task.name), timeout=CALL_SECONDS)
        self.assertTrue(plan.startable, plan.problems)
        self.assertEqual(plan.device_count, 3)
        self.assertGreater(plan.sessions[0].nb_frag, 0)
        start = task_pb2.StartTaskRequest(name=task.name, etag=task.etag, request_id=new_id())
        started = self.tasks.StartTask(start, timeout=CALL_SECONDS)
        self.assertIn(started.state, (task_pb2.TASK_STATE_SCHEDULED, task_pb2.TASK_STATE_PREPARING))
        # A repeat starts nothing twice.
        self.assertEqual(self.tasks.StartTask(start, timeout=CALL_SECONDS), started)

        watched = self.watch_with_a_break(task.name)
        self.check_end(lab, task.name, watched)

    def watch_with_a_break(self, name):
        """Follows the task to its end, breaking off once on purpose. Returns the records as last seen."""
        end = time.monotonic() + TASK_SECONDS
        seen = {}
        last = 0
        for limit in [WATCHED_FIRST, None]:
            request = task_pb2.WatchTaskRequest(name=name, resume_after_sequence=last)
            call = self.tasks.WatchTask(request, timeout=max(1.0, end - time.monotonic()))
            count = 0
            for change in call:
                self.assertGreater(change.sequence, last, "the sequence has to grow, also over a resume")
                last = change.sequence
                record = getattr(change, change.WhichOneof("record"))
                self.assertEqual(record.sequence, last)
                seen[record.name] = record
                count += 1
                if count == limit:
                    call.cancel()
                    break
            if limit is not None:
                self.assertEqual(count, limit, "the task ended before the break")
                self.assertNotEqual(seen[name].state, task_pb2.TASK_STATE_COMPLETED)
        # The server ends the stream itself, in good order.
        self.assertEqual(call.code(), grpc.StatusCode.OK)
        return seen

    def check_end(self, lab, name, watched):
        task = self.tasks.GetTask(task_pb2.GetTaskRequest(name=name), timeout=CALL_SECONDS)
        self.assertEqual(task.state, task_pb2.TASK_STATE_COMPLETED, task)
        self.assertEqual(task.device_counts.running, 3, task)
        self.assertEqual(task.device_counts.succeeded, 3, task)
        request = task_pb2.ListTaskDevicesRequest(parent=name)
        devices = self.tasks.ListTaskDevices(request, timeout=CALL_SECONDS).task_devices
        expected = sorted(f"{name}/devices/{fields['dev_eui']}" for fields in lab["devices"])
        self.assertEqual([device.name for device in devices], expected)
        for device in devices:
            self.assertEqual(device.state, task_pb2.TASK_DEVICE_STATE_RUNNING, device)
            self.assertEqual(device.verdict, task_pb2.VERDICT_SUCCEEDED, device)
            self.assertEqual(device.version_reported, lab["target_version"], device)
        # What was watched is what can be read: nothing was lost over the break.
        self.assertEqual(watched, {record.name: record for record in [task, *devices]})
        # The whole image went out at least once, and what is counted was charged.
        request = task_pb2.ListDistributionSessionsRequest(parent=name)
        sessions = self.tasks.ListDistributionSessions(request, timeout=CALL_SECONDS).sessions
        self.assertGreaterEqual(sessions[0].uncoded_fragments_sent, sessions[0].nb_frag)
        self.assertGreater(task.airtime_us, 0)


class TwoImages(Simulated):
    """A firmware and a radio part for three devices, in one task with one reboot."""

    def test_both_run_after_one_reboot(self):
        lab, devices = self.enter("--seed", 8, "--parts", 1)
        part = lab["parts"][0]
        images = [
            self.upload(lab["image_path"], lab["target_version"]),
            self.upload(part["image_path"], part["target_version"], part["component"]),
        ]
        task = self.create_task(lab, images, devices)
        start = task_pb2.StartTaskRequest(name=task.name, request_id=new_id())
        self.tasks.StartTask(start, timeout=CALL_SECONDS)
        watch = task_pb2.WatchTaskRequest(name=task.name)
        for _ in self.tasks.WatchTask(watch, timeout=TASK_SECONDS):
            pass

        ended = self.tasks.GetTask(task_pb2.GetTaskRequest(name=task.name), timeout=CALL_SECONDS)
        self.assertEqual(ended.state, task_pb2.TASK_STATE_COMPLETED, ended)
        self.assertEqual(ended.device_counts.running, 3, ended)
        names = [image.name for image in images]
        request = task_pb2.ListDistributionSessionsRequest(parent=task.name)
        sessions = self.tasks.ListDistributionSessions(request, timeout=CALL_SECONDS).sessions
        self.assertEqual([session.image for session in sessions][:2], names)
        self.assertEqual([session.frag_index for session in sessions][:2], [0, 1])
        request = task_pb2.ListTaskDevicesRequest(parent=task.name)
        for device in self.tasks.ListTaskDevices(request, timeout=CALL_SECONDS).task_devices:
            self.assertEqual([image.image for image in device.images], names, device)
            done = task_pb2.TASK_DEVICE_IMAGE_STATE_DONE
            self.assertEqual(device.images[0].state, done, device)
        for name in devices:
            device = self.devices.GetDevice(device_pb2.GetDeviceRequest(name=name), timeout=CALL_SECONDS)
            versions = {component: seen.version for component, seen in device.versions.items()}
            expected = {"main": lab["target_version"], part["component"]: part["target_version"]}
            self.assertEqual(versions, expected)


if __name__ == "__main__":
    runner = unittest.TextTestRunner(verbosity=2, resultclass=Result)
    sys.exit(not unittest.main(testRunner=runner, exit=False).result.wasSuccessful())
