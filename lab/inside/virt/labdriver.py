"""Runs inside nova-compute: nova's in-tree fake driver, with guests and disks that are files.

So a nova-compute can be restarted without losing its guests, and what is on a guest's disk after a move can be compared
with what was on it before.  The disk of an image-backed server is downloaded from glance by spawn, uploaded by
snapshot, and removed with its folder by destroy and cleanup, as with nova's libvirt driver.

    <state_path>/guests/<uuid>.json        name, power state, ports, volumes: the hypervisor's own records
    <state_path>/instances/<uuid>/disk     the root disk; disk.eph0, disk.swap where the flavor has them

Any call can be made to fail or to hang: see FAULTS below and lab/README.md.
"""

import functools
import json
import os
import shutil
import time
import uuid
from collections.abc import MutableMapping

import nova.conf
from nova import exception
from nova.compute import power_state, task_states
from nova.image import glance
from nova.virt import fake
from oslo_log import log as logging

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

HOME = os.environ["CELLMOVE_LAB_HOME"]
TEMPORARY_SUFFIX = "-resize-temp"  # how nova names the image that carries a disk from cell to cell

# The virt calls that a file <home>/faults/<host>/<call> can disturb.
FAULTS = (
    "attach_interface", "attach_volume", "cleanup", "confirm_migration", "destroy", "detach_interface",
    "detach_volume", "finish_migration", "finish_revert_migration", "get_host_ip_addr", "get_info",
    "get_volume_connector", "migrate_disk_and_power_off", "plug_vifs", "power_off", "power_on", "reboot", "snapshot",
    "spawn", "unplug_vifs",
)  # fmt: skip


def fault_path(call):
    """The file that makes a call of this host fail."""
    return os.path.join(HOME, "faults", CONF.host, call)


def read_fault(name):
    """The words in a fault's file, or [] without one."""
    try:
        with open(fault_path(name), encoding="utf-8") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def find_fault(call, arguments):
    """The fault for this call: one for this very guest (`<call>.<uuid>`) comes before one for all."""
    for argument in arguments:
        if hasattr(argument, "uuid") and hasattr(argument, "vm_state"):
            name = f"{call}.{argument.uuid}"
            words = read_fault(name)
            if words:
                return name, words
    return call, read_fault(call)


def apply_fault(call, name, words):
    """Fail or hang as told: `fail`, `fail once`, `hang` (until the file is removed), `hang <seconds>`."""
    LOG.warning("Fault at %s: %s", name, " ".join(words))
    if words[0] == "hang":
        limit = time.monotonic() + float(words[1]) if words[1:] else float("inf")
        while time.monotonic() < limit and read_fault(name):
            time.sleep(0.1)
        return
    if words[1:] == ["once"]:
        try:
            os.unlink(fault_path(name))
        except FileNotFoundError:
            return  # another thread was the one
    raise exception.NovaException(f"the lab was told to let {call} fail on {CONF.host}")


def with_fault(call, method):
    """A virt call that looks for its fault first; with a last word `after`, the fault comes when the work is done."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        name, words = find_fault(call, (*args, *kwargs.values()))
        late = words[-1:] == ["after"]
        words = words[:-1] if late else words
        if words and not late:
            apply_fault(call, name, words)
        result = method(self, *args, **kwargs)
        if words and late:
            apply_fault(call, name, words)
        return result

    return wrapped


def write_whole(path, data):
    """Write by rename, so that a reader (or a compute killed half-way) never sees half a file."""
    part = f"{path}.{uuid.uuid4().hex}.part"
    with open(part, "wb") as file:
        file.write(data)
    os.rename(part, path)


class Guest:
    """One guest of this host; whatever is set on it is on disk at once."""

    def __init__(self, path, record):
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "record", record)

    def __getattr__(self, name):
        try:
            return self.record[name]
        except KeyError:
            raise AttributeError(name) from None

    __getitem__ = __getattr__

    def __setattr__(self, name, value):
        self.record[name] = value
        self.save()

    def save(self):
        """Write the record."""
        write_whole(self.path, json.dumps(self.record, indent=1).encode())


class Guests(MutableMapping):
    """All guests of this host, by uuid: the in-tree driver's `instances`, but files and nothing else.

    So a guest whose file is taken away has vanished, as one does that dies behind nova's back.
    """

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def path(self, key):
        """The record of one guest."""
        return os.path.join(self.folder, f"{key}.json")

    def __getitem__(self, key):
        try:
            with open(self.path(key), encoding="utf-8") as file:
                return Guest(self.path(key), json.load(file))
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key, value):
        """Accepts what the in-tree driver makes (name, state, uuid); keeps what it does not know about."""
        before = self.get(key)
        record = dict(before.record) if before else {"ports": [], "volumes": {}}
        record.update(name=value.name, state=value.state, uuid=value.uuid)
        Guest(self.path(key), record).save()

    def __delitem__(self, key):
        try:
            os.unlink(self.path(key))
        except FileNotFoundError:
            raise KeyError(key) from None

    def __contains__(self, key):
        return os.path.exists(self.path(key))

    def __iter__(self):
        return iter([name.removesuffix(".json") for name in os.listdir(self.folder) if name.endswith(".json")])

    def __len__(self):
        return len(list(iter(self)))


def port_ids(network_info):
    """The ports of a network_info."""
    return sorted(vif["id"] for vif in network_info or [])


def volumes(block_device_info):
    """volume id -> mount device of everything that a block_device_info attaches."""
    found = {}
    for mapping in (block_device_info or {}).get("block_device_mapping") or []:
        connection = mapping.get("connection_info") or {}
        data = connection.get("data") or {}
        volume = connection.get("volume_id") or data.get("volume_id") or connection.get("serial")
        found[str(volume)] = mapping.get("mount_device")
    return found


class LabDriver(fake.FakeDriverWithoutFakeNodes):
    """The in-tree fake driver with a memory and with disks."""

    vcpus = 64
    memory_mb = 65536
    local_gb = 4000

    def __init__(self, virtapi, read_only=False):
        super().__init__(virtapi, read_only)
        self.instances = Guests(os.path.join(CONF.state_path, "guests"))
        self.images = glance.API()

    # Disks

    def folder(self, instance_uuid):
        """Where the disks of a guest are."""
        return os.path.join(CONF.state_path, "instances", instance_uuid)

    def make_disks(self, context, instance, image_meta):
        """Create what is not there yet.  Like libvirt's image backend, never overwrite a disk that is."""
        folder = self.folder(instance.uuid)
        os.makedirs(folder, exist_ok=True)
        if instance.image_ref and not os.path.exists(os.path.join(folder, "disk")):
            self.make_root(context, instance, image_meta, os.path.join(folder, "disk"))
        for present, name in ((instance.flavor.ephemeral_gb, "disk.eph0"), (instance.flavor.swap, "disk.swap")):
            path = os.path.join(folder, name)
            if present and not os.path.exists(path):
                write_whole(path, os.urandom(65536))

    def make_root(self, context, instance, image_meta, path):
        """Download the image.  A guest that starts from it for the first time writes something of its own."""
        part = f"{path}.{uuid.uuid4().hex}.part"
        self.images.download(context, instance.image_ref, dest_path=part)
        with open(part, "rb") as file:
            data = file.read()
        mark = f"\nguest {instance.uuid} ".encode()
        name = image_meta.name if image_meta is not None and "name" in image_meta else ""
        if not (name or "").endswith(TEMPORARY_SUFFIX) and mark not in data:
            with open(part, "ab") as file:
                file.write(mark + os.urandom(16).hex().encode() + b"\n")
        os.rename(part, path)

    def remove_disks(self, instance_uuid):
        """Take away the folder, and the one that a resize within the cell keeps."""
        for path in (self.folder(instance_uuid), self.folder(instance_uuid) + "_resize"):
            shutil.rmtree(path, ignore_errors=True)

    def require_disk(self, instance):
        """A guest cannot start without its root disk."""
        if instance.image_ref and not os.path.exists(os.path.join(self.folder(instance.uuid), "disk")):
            raise exception.DiskNotFound(location=os.path.join(self.folder(instance.uuid), "disk"))

    def define(self, instance, network_info, block_device_info, power_on):
        """Make the guest's record."""
        state = power_state.RUNNING if power_on else power_state.SHUTDOWN
        self.instances[instance.uuid] = fake.FakeInstance(instance.name, state, instance.uuid)
        guest = self.instances[instance.uuid]
        guest.record.update(ports=port_ids(network_info), volumes=volumes(block_device_info))
        guest.save()

    # Guests

    def spawn(self, context, instance, image_meta, injected_files, admin_password, allocations, network_info=None,
              block_device_info=None, power_on=True, accel_info=None):  # fmt: skip
        """Disks, then the guest."""
        for vif in network_info or []:
            vif.fixed_ips()  # waits for nova's network thread, whose failure is this call's failure
            self._interfaces[vif["id"]] = vif
        self.make_disks(context, instance, image_meta)
        self.define(instance, network_info, block_device_info, power_on)

    def destroy(self, context, instance, network_info, block_device_info=None, destroy_disks=True,
                destroy_secrets=True):  # fmt: skip
        """The guest goes; its disks only if told so."""
        if instance.uuid in self.instances:
            del self.instances[instance.uuid]
        for vif in network_info or []:
            self._interfaces.pop(vif["id"], None)
        if destroy_disks:
            self.remove_disks(instance.uuid)

    def cleanup(self, context, instance, network_info, block_device_info=None, destroy_disks=True, migrate_data=None,
                destroy_vifs=True, destroy_secrets=True):  # fmt: skip
        """What destroy(destroy_disks=False) has left; refused while the guest is there, as by the in-tree driver."""
        super().cleanup(context, instance, network_info, block_device_info, destroy_disks, migrate_data, destroy_vifs,
                        destroy_secrets)  # fmt: skip
        if destroy_disks:
            self.remove_disks(instance.uuid)

    def snapshot(self, context, instance, image_id, update_task_state):
        """Upload the root disk into an image that exists already."""
        if instance.uuid not in self.instances:
            raise exception.InstanceNotRunning(instance_id=instance.uuid)
        image = self.images.get(context, image_id)
        update_task_state(task_state=task_states.IMAGE_PENDING_UPLOAD)
        metadata = {
            "status": "active",
            "name": image["name"],
            "disk_format": "raw",
            "container_format": "bare",
            "properties": {"image_location": "snapshot", "image_state": "available"},
        }
        update_task_state(task_state=task_states.IMAGE_UPLOADING, expected_state=task_states.IMAGE_PENDING_UPLOAD)
        with open(os.path.join(self.folder(instance.uuid), "disk"), "rb") as disk:
            self.images.update(context, image_id, metadata, disk, purge_props=False)

    def power_on(self, context, instance, network_info, block_device_info=None, accel_info=None, share_info=None):
        """Like libvirt, define a guest anew that has its disks but is unknown."""
        if instance.uuid not in self.instances:
            self.require_disk(instance)
            self.define(instance, network_info, block_device_info, True)
        super().power_on(context, instance, network_info, block_device_info, accel_info, share_info)

    def reboot(self, context, instance, network_info, reboot_type, block_device_info=None,
               bad_volumes_callback=None, accel_info=None, share_info=None):  # fmt: skip
        """A hard reboot brings back a guest that is gone, from the disks that are there."""
        if reboot_type.lower() == "hard":
            self.make_disks(context, instance, instance.image_meta)
            self.define(instance, network_info, block_device_info, True)
        else:
            self.power_on(context, instance, network_info, block_device_info)

    def get_info(self, instance, use_cache=True):
        """Power state, by the record."""
        return super().get_info(instance, use_cache)

    def instance_on_disk(self, instance):
        """Whether the disks are here (evacuate asks)."""
        return os.path.exists(self.folder(instance.uuid))

    def get_host_uptime(self):
        """Something to show in hypervisor listings."""
        return "00:00:00 up 1 day,  0:00,  0 users,  load average: 0.00, 0.00, 0.00"

    # Interfaces and volumes

    def attach_interface(self, context, instance, image_meta, vif):
        """Plug one more port."""
        self._interfaces[vif["id"]] = vif
        guest = self.instances[instance.uuid]
        guest.ports = sorted({*guest.ports, vif["id"]})

    def detach_interface(self, context, instance, vif):
        """Unplug a port; one that is not plugged is no error after a restart."""
        self._interfaces.pop(vif["id"], None)
        if instance.uuid in self.instances:
            guest = self.instances[instance.uuid]
            guest.ports = [port for port in guest.ports if port != vif["id"]]

    def attach_volume(self, context, connection_info, instance, mountpoint, disk_bus=None, device_type=None,
                      encryption=None):  # fmt: skip
        """Attach one more volume."""
        if instance.uuid in self.instances:
            guest = self.instances[instance.uuid]
            added = volumes({"block_device_mapping": [
                {"connection_info": connection_info, "mount_device": mountpoint}]})  # fmt: skip
            guest.volumes = {**guest.volumes, **added}

    def detach_volume(self, context, connection_info, instance, mountpoint, encryption=None):
        """Detach a volume."""
        if instance.uuid in self.instances:
            guest = self.instances[instance.uuid]
            guest.volumes = {volume: where for volume, where in guest.volumes.items() if where != mountpoint}

    # Hosts

    def get_host_ip_addr(self):
        """Each lab host has an address of its own."""
        return CONF.my_ip

    def get_volume_connector(self, instance):
        """As the in-tree one, with an initiator that differs from host to host."""
        return {"ip": CONF.my_block_storage_ip, "initiator": f"iqn.2000-01.lab:{CONF.host}", "host": CONF.host}

    # A resize or cold migration within a cell: the disks are copied to the other host

    def other_folder(self, address, instance_uuid):
        """Where the disks of a guest are on the host with this address; all lab hosts are on this machine."""
        with open(os.path.join(HOME, "etc", "hosts.json"), encoding="utf-8") as file:
            host = json.load(file)[address]
        return os.path.join(os.path.dirname(CONF.state_path), host, "instances", instance_uuid)

    def migrate_disk_and_power_off(self, context, instance, dest, flavor, network_info, block_device_info=None,
                                   timeout=0, retry_interval=0):  # fmt: skip
        """Stop the guest, keep its disks under another name, copy them over."""
        if instance.uuid in self.instances:
            self.instances[instance.uuid].state = power_state.SHUTDOWN
        here = self.folder(instance.uuid)
        if os.path.exists(here):
            kept = here + "_resize"
            shutil.rmtree(kept, ignore_errors=True)
            os.rename(here, kept)
            there = self.other_folder(dest, instance.uuid)
            shutil.rmtree(there, ignore_errors=True)
            shutil.copytree(kept, there)
        return "[]"

    def finish_migration(self, context, migration, instance, disk_info, network_info, image_meta, resize_instance,
                         allocations, block_device_info=None, power_on=True, share_info=None):  # fmt: skip
        """The disks are here: start the guest from them."""
        self.require_disk(instance)
        self.make_disks(context, instance, image_meta)
        self.define(instance, network_info, block_device_info, power_on)

    def confirm_migration(self, context, migration, instance, network_info):
        """The source forgets the guest and the disks that it kept."""
        self.instances.pop(instance.uuid, None)
        if migration.source_compute != migration.dest_compute:
            self.remove_disks(instance.uuid)
        shutil.rmtree(self.folder(instance.uuid) + "_resize", ignore_errors=True)

    def finish_revert_migration(self, context, instance, network_info, migration, block_device_info=None,
                                power_on=True, share_info=None):  # fmt: skip
        """The source takes the guest back: from the disks kept beside (same cell) or in place (other cell)."""
        kept = self.folder(instance.uuid) + "_resize"
        if os.path.exists(kept):
            shutil.rmtree(self.folder(instance.uuid), ignore_errors=True)
            os.rename(kept, self.folder(instance.uuid))
        self.require_disk(instance)
        self.define(instance, network_info, block_device_info, power_on)


for _call in FAULTS:
    setattr(LabDriver, _call, with_fault(_call, getattr(LabDriver, _call)))
