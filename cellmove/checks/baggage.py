"""Check what moves with the server: ports, volumes, shares and local disks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellmove.checks.result import CheckResult, CheckResults, refusal, warning
from cellmove.checks.snapshot import ServerSnapshot, guest_architecture
from cellmove.core.transfer import CARRIED, STREAM

if TYPE_CHECKING:
    from cellmove.cloud.volume import Attachment

SRIOV = frozenset({"direct", "direct-physical", "macvtap", "virtio-forwarder", "vdpa", "remote-managed"})
"""Kinds of port that hold a PCI device of the host."""


# --- ports ---


def check_neutron(snapshot: ServerSnapshot) -> CheckResults:
    """Check that neutron can bind a port to two hosts."""
    if not snapshot.extended_binding:
        yield refusal(
            "no-binding-extended",
            "neutron lacks the extension binding-extended: a port cannot be bound to two hosts",
            "use neutron Rocky or later with the ML2 plugin",
        )


def check_ports(snapshot: ServerSnapshot) -> CheckResults:
    """Check for ports that cannot be moved, or could not be returned to the source."""
    host = snapshot.instance.host
    for port in snapshot.ports:
        if port.resource_request:
            yield refusal(
                "port-resources",
                f"port {port.id} asks for resources (QoS minimum bandwidth or packet rate); "
                "nova cannot move those between cells",
                f"ask the owner to remove the QoS policy from the port: openstack port unset --qos-policy {port.id}",
            )
        if port.vnic_type.startswith("accelerator-direct"):
            yield refusal(
                "port-accelerator",
                f"port {port.id} is an accelerator ({port.vnic_type})",
                "nova cannot move accelerators: the server can move once its owner has removed that port",
            )
        elif port.vnic_type in SRIOV:
            yield warning(
                "port-pci",
                f"port {port.id} is a PCI device ({port.vnic_type}): the destination needs a free one on the same "
                "physical network, and nova has known bugs in returning it",
                "compare the port's binding profile with the guest's device after the move",
            )
        if port.host and port.host != host:
            yield refusal(
                "port-elsewhere",
                f"port {port.id} is bound to {port.host}, but the server is on {host}: "
                "an earlier move was not completed",
                f"find out on which of the two its guest runs (virsh list --all) before anything else; cellmove audit --server "
                f"{snapshot.server_id} lists the other leftovers of that move",
            )
        elif port.vif_type in ("unbound", "binding_failed"):
            yield warning("port-unbound", f"port {port.id} is not bound ({port.vif_type})", "look at its neutron agent")
        for other in snapshot.other_bindings.get(port.id, ()):
            yield refusal(
                "port-binding-left",
                f"port {port.id} has a binding for {other} from an earlier move",
                f"cellmove audit --server {snapshot.server_id}; with --repair it deletes a binding that nothing uses",
            )


def check_interfaces(snapshot: ServerSnapshot) -> CheckResults:
    """Check for ports of the server that nova does not list, and interfaces that are no ports.

    A move, also one by nova itself, uses nova's info cache (nova/network/neutron.py, ``bind_ports_to_host``).
    """
    host = snapshot.instance.host
    for port in snapshot.stray_ports:
        if port.host == host and host and port.device_owner.startswith("compute:"):
            yield refusal(
                "port-not-cached",
                f"port {port.id} is bound to {host} for this server, but nova does not list it among its interfaces "
                "(instance_info_caches): the server would lose it",
                "wait until nova-compute has refreshed that list (heal_instance_info_cache_interval, a minute as a rule), "
                "and plan again",
            )
        else:
            yield warning(
                "port-stray",
                f"port {port.id} carries the server's id, but is none of its interfaces: it is left as it is",
                f"nothing has to be done; to see its owner: openstack port show {port.id}",
            )
    if snapshot.interfaces is not None:
        for missing in sorted(snapshot.interfaces - {port.id for port in snapshot.ports}):
            yield warning(
                "port-gone",
                f"nova lists an interface {missing} of the server, which is none of its ports in neutron",
                "nothing has to be done; nova-compute drops it when it refreshes its list",
            )


def network_ok(snapshot: ServerSnapshot) -> str:
    """Describe ports that can be moved."""
    count = len(snapshot.ports)
    return f"{_count(count, 'port')} can be bound to another host" if count else "the server has no ports"


# --- volumes and shares ---


def check_volumes(snapshot: ServerSnapshot) -> CheckResults:
    """Check for volumes that are busy, or that cinder and nova record differently."""
    attachments = {attachment.id for attachment in snapshot.attachments}
    for device in snapshot.devices:
        if not device.uuid:
            yield refusal(
                "device-without-uuid",
                f"the record of {device.device_name or 'a disk'} has no UUID (it is from before 2016), "
                "by which both cells' records are matched",
                f"openstack server volume list {snapshot.server_id}: nova's API gives it one when it reads it",
            )
    for device in snapshot.volumes:
        volume, state = device.volume_id, snapshot.volume_states.get(device.volume_id)
        if state is None:
            yield refusal(
                "volume-missing",
                f"volume {volume or '(none)'} of {device.device_name or 'a disk'} does not exist in cinder",
                "find out what happened to the volume: nova cannot detach a volume that cinder does not know, and the guest may be using it",
            )
            continue
        if state != "in-use":
            yield refusal(
                "volume-state",
                f"volume {volume} is {state}, not in-use",
                f"wait until that has ended, or repair it (openstack volume show {volume})",
            )
        if not device.attachment_id:
            yield refusal(
                "old-attachment",
                f"volume {volume} is attached in the way of before Queens, without an attachment id; "
                "a revert would not find it again",
                _renewal(snapshot, volume),
            )
        elif device.attachment_id not in attachments:
            yield refusal(
                "attachment-missing",
                f"cinder does not know the attachment {device.attachment_id} of volume {volume}",
                _renewal(snapshot, volume),
            )
    for attachment in unnamed_attachments(snapshot):
        yield _unnamed(snapshot, attachment)


def unnamed_attachments(snapshot: ServerSnapshot) -> list[Attachment]:
    """Return the attachments to the server that cinder has and the server's record does not name."""
    named = {device.attachment_id for device in snapshot.volumes}
    return [attachment for attachment in snapshot.attachments if attachment.id not in named]


def _unnamed(snapshot: ServerSnapshot, attachment: Attachment) -> CheckResult:
    """Return a warning for an attachment that is certainly unused, and a refusal for every other.

    An attachment is unused if it is empty (``reserved``: no host has connected through it), no record of a volume in any
    cell names it, and no record of the server has its volume without an attachment id.
    """
    volume = attachment.volume_id
    users = snapshot.attachment_users.get(attachment.id, ("its other users are unknown",))
    text = f"volume {volume} has an attachment {attachment.id} ({attachment.status}) to this server that its record does not name"
    old = any(device.volume_id == volume and not device.attachment_id for device in snapshot.volumes)
    if attachment.status == "reserved" and not users and not old:
        return warning(
            "attachment-left",
            f"{text}; it is empty, and no record in any cell names it: an earlier move left it",
            f"cellmove audit --server {snapshot.server_id}; with --repair it deletes it, after it has looked again",
        )
    why = f"in use: {', '.join(users)}" if users else "the guest may be connected by it"
    return refusal(
        "attachment-unnamed",
        f"{text}; {why}",
        f"change nothing until you know which attachment the guest uses (openstack volume show {volume}; virsh domblklist "
        f"on {snapshot.instance.host}); nova's record has to name that attachment",
    )


def _renewal(snapshot: ServerSnapshot, volume: str) -> str:
    """Return the commands that give a volume's record an attachment that cinder has, while the volume stays reserved."""
    return (
        f"stop the server, then nova-manage volume_attachment refresh {snapshot.server_id} {volume} CONNECTOR (nova 24 and later; "
        "nova-manage volume_attachment get_connector prints it on the host)"
    )


def check_shares(snapshot: ServerSnapshot) -> CheckResults:
    """Check for manila shares, whose records are not moved."""
    if snapshot.shares:
        yield refusal(
            "shares",
            f"the server has {_count(snapshot.shares, 'manila share')}, whose records nova does not move between cells",
            f"detach them first (openstack server share list {snapshot.server_id}; the server has to be stopped)",
        )


def volumes_ok(snapshot: ServerSnapshot) -> str:
    """Describe volumes that can be moved."""
    count = len(snapshot.volumes)
    return f"{_count(count, 'volume')} can be attached to another host" if count else ""


# --- local disks ---


@dataclass(frozen=True)
class DataLoss:
    """Data on the source host that is not moved.

    :param name: the value of ``--accept-loss`` that accepts it
    """

    name: str
    text: str


def losses(snapshot: ServerSnapshot) -> list[DataLoss]:
    """Return what this move would lose: a stream copies all local disks, a temporary image only the root disk."""
    found = _losses(snapshot)
    return [loss for loss in found if loss.name not in CARRIED] if snapshot.transfer == STREAM else found


def carried(snapshot: ServerSnapshot) -> list[str]:
    """Return the names of losses that only the stream avoids and that the operator has not accepted."""
    kept = {loss.name for loss in losses(snapshot)} | set(snapshot.accepted_losses)
    return sorted({loss.name for loss in _losses(snapshot)} - kept)


def _losses(snapshot: ServerSnapshot) -> list[DataLoss]:
    """Return what a move through a temporary image loses.

    The image holds the root disk only. nova creates the other local disks empty at the destination and deletes those of
    the source on confirm (nova/virt/libvirt/driver.py, snapshot, spawn and cleanup).
    """
    found: list[DataLoss] = []
    for device in snapshot.devices:
        if device.destination_type != "local" or device.boot_index == 0:
            continue
        name = device.device_name or "a disk"
        if device.guest_format == "swap":
            found.append(DataLoss("swap", f"swap disk {name}: its content is lost"))
        elif device.source_type == "blank":
            found.append(DataLoss("ephemeral", f"ephemeral disk {name}: its content is lost"))
        else:
            found.append(DataLoss("local-disk", f"local disk {name}: its content is lost"))
    names = {loss.name for loss in found}
    flavor, image, specs = snapshot.flavor, snapshot.instance.image, snapshot.flavor.extra_specs
    if flavor.swap and "swap" not in names:
        found.append(DataLoss("swap", f"swap disk of {flavor.swap} MiB: its content is lost"))
    if flavor.ephemeral_gb and "ephemeral" not in names:
        found.append(DataLoss("ephemeral", f"ephemeral disk of {flavor.ephemeral_gb} GiB: its content is lost"))
    if snapshot.instance.vtpm_secret or specs.get("hw:tpm_version") or image.get("hw_tpm_version"):
        found.append(DataLoss("vtpm", "virtual TPM: its secrets are lost; a guest disk sealed to it will not open"))
    found += _nvram(snapshot)
    if specs.get("hw:pmem"):
        found.append(DataLoss("pmem", "persistent memory: its content is lost"))
    return found


KNOWS_STATELESS = 68
"""The service version (2025.1) from which nova surely knows ``hw_firmware_stateless``; 2024.2 does, with that of 2024.1."""


def _nvram(snapshot: ServerSnapshot) -> list[DataLoss]:
    """UEFI variables, which libvirt keeps beside the guest on its host.

    nova/virt/libvirt/driver.py, ``_configure_guest_by_virt_type``: aarch64 guests get UEFI unless their image says
    otherwise. Stateless firmware has no variables (nova/virt/hardware.py, ``get_stateless_firmware_constraint``); nova
    ignores that property where the image does not ask for UEFI, and so do releases that do not know it.
    """
    image, node, compute = snapshot.instance.image, snapshot.source_node, snapshot.source_compute
    firmware = image.get("hw_firmware_type")
    architecture = guest_architecture(image)[0] or (node.architecture if node else "")
    if firmware != "uefi" and (firmware or architecture != "aarch64"):
        return []
    stateless = image.get("hw_firmware_stateless", "").lower() in ("1", "t", "true", "on", "y", "yes")
    if stateless and firmware and compute is not None and compute.version >= KNOWS_STATELESS:
        return []
    text = "UEFI variables (NVRAM): boot entries and enrolled keys are set back"
    if not firmware:
        text += "; aarch64 guests have them without any property of the image"
    secure = snapshot.flavor.extra_specs.get("os:secure_boot") or image.get("os_secure_boot")
    if secure in ("required", "optional"):
        text += "; with secure boot, a boot loader signed with an enrolled key (MOK) will not start"
    return [DataLoss("nvram", text)]


def check_losses(snapshot: ServerSnapshot) -> CheckResults:
    """Refuse each loss that the operator has not accepted by name."""
    for loss in losses(snapshot):
        if loss.name in snapshot.accepted_losses:
            yield warning(f"loses-{loss.name}", f"the move loses the {loss.text}; accepted (--accept-loss)")
            continue
        yield refusal(
            f"loses-{loss.name}",
            f"the move would lose the {loss.text}",
            f"save what is needed first, from inside the guest; it cannot be moved. Then --accept-loss={loss.name}",
        )


def losable(snapshot: ServerSnapshot) -> list[str]:
    """Return the values of ``--accept-loss`` that this server has."""
    return sorted(
        {loss.name for loss in losses(snapshot)} | ({"config-drive"} if snapshot.instance.config_drive else set())
    )


def check_transfer(snapshot: ServerSnapshot) -> CheckResults:
    """Why disks cannot be streamed, when that was asked for; and why it must not go there in any way."""
    if snapshot.survey is None:
        return
    for danger in snapshot.survey.dangers:
        yield refusal("disks-in-danger", danger, "choose another host; look what is there, and whose it is")
    if snapshot.transfer_wish == STREAM:
        for hindrance in snapshot.survey.hindrances if not snapshot.survey.dangers else ():
            yield refusal(
                "cannot-stream",
                f"the disks cannot be streamed: {hindrance}",
                "repair that, or move the disks through a temporary image: --transfer image",
            )


def check_encryption(snapshot: ServerSnapshot) -> CheckResults:
    """Local disks that are encrypted: a snapshot and its key do not fit any more in the other cell."""
    if snapshot.instance.ephemeral_key or any(
        device.encrypted for device in snapshot.devices if device.destination_type == "local"
    ):
        yield refusal(
            "encrypted-disk",
            "nova encrypts the local disks, so they cannot be copied to another cell",
            "only servers without local disk encryption can be moved",
        )


def disks_ok(snapshot: ServerSnapshot) -> str:
    """When no local disk is lost."""
    if snapshot.is_volume_backed:
        return "the root disk is a volume, and there is no local disk to lose"
    survey = snapshot.survey
    if snapshot.transfer == STREAM and survey is not None:
        return f"the disks ({_count(len(survey.disks), 'file')}, {survey.allocated >> 20} MiB) are streamed while the server runs"
    text = "the root disk travels through a temporary image, and there is no other local disk to lose"
    return f"{text}; it is not streamed because {'; '.join(survey.hindrances)}" if survey is not None else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
