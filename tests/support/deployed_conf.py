"""nova.conf in the shapes that kolla-ansible and openstack-ansible generate, with what cellmove has to read of it."""

from __future__ import annotations

from pathlib import Path

PASSWORD = "s3cret-pw"

KOLLA = """\
[DEFAULT]
debug = False
log_file = /var/log/kolla/nova/nova-super-conductor.log
state_path = /var/lib/nova
allow_resize_to_same_host = true
my_ip = 192.0.2.11
transport_url = rabbit://openstack:{password}@192.0.2.11:5671,openstack:{password}@192.0.2.12:5671//

[oslo_concurrency]
lock_path = /var/lib/nova/tmp

[cinder]
catalog_info = block-storage::internalURL
os_region_name = RegionOne
auth_url = https://192.0.2.10:5000
auth_type = password
project_domain_name = Default
user_domain_id = default
project_name = service
username = cinder
password = other
cafile = {ca}

[neutron]
metadata_proxy_shared_secret = shared
service_metadata_proxy = true
auth_url = https://192.0.2.10:5000
auth_type = password
project_domain_name = Default
user_domain_id = default
project_name = service
username = neutron
password = {password}
region_name = RegionOne
valid_interfaces = internal
cafile = {ca}

[database]
connection = mysql+pymysql://nova:{password}@192.0.2.10/nova_cell0?ssl_ca={ca}
connection_recycle_time = 10
max_pool_size = 1
max_retries = -1

[api_database]
connection = mysql+pymysql://nova_api:{password}@192.0.2.10/nova_api?ssl_ca={ca}
connection_recycle_time = 10
max_retries = -1

[oslo_messaging_notifications]
transport_url = rabbit://openstack:{password}@192.0.2.11:5671,openstack:{password}@192.0.2.12:5671//
driver = noop

[oslo_messaging_rabbit]
use_queue_manager = true
heartbeat_in_pthread = False
ssl = true
ssl_ca_file = {ca}
rabbit_quorum_queue = true
rabbit_stream_fanout = true
rabbit_qos_prefetch_count = 1
rabbit_transient_quorum_queue = true

[placement]
auth_type = password
auth_url = https://192.0.2.10:5000
username = placement
password = other
"""

OPENSTACK_ANSIBLE = """\
[DEFAULT]
debug = False
use_journal = True
state_path = /var/lib/nova
service_down_time = 120
transport_url = rabbit://nova:{password}@192.0.2.21:5671,nova:{password}@192.0.2.22:5671/nova?ssl=1&ssl_version=TLSv1_2&ssl_ca_file={ca}
my_ip = 192.0.2.31

[oslo_messaging_notifications]
topics = notifications,notifications_designate
driver = messagingv2
transport_url = rabbit://nova:{password}@${{my_ip}}:5671/nova?ssl=1&ssl_version=TLSv1_2&ssl_ca_file={ca}

[oslo_messaging_rabbit]
rabbit_quorum_queue = True
rabbit_transient_quorum_queue = True
rabbit_qos_prefetch_count = 1
use_queue_manager = True
hostname = $my_ip-nova-conductor
rabbit_stream_fanout = True
rabbit_quorum_delivery_limit = 0
rabbit_quorum_max_memory_bytes = 0

[cinder]
catalog_info = block-storage:cinder:internalURL
os_region_name = RegionOne
auth_section = keystone_authtoken
cross_az_attach = False

[neutron]
region_name = RegionOne
auth_type = password
default_floating_pool = public
username = nova
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
auth_url = https://192.0.2.20:5000/v3
insecure = False
metadata_proxy_shared_secret = shared
service_metadata_proxy = True

[notifications]
notify_on_state_change = vm_and_task_state
notification_format = both

[service_user]
send_service_user_token = True
region_name = RegionOne
auth_type = password
username = nova
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
auth_url = https://192.0.2.20:5000/v3
insecure = False

[database]
connection = mysql+pymysql://nova:{password}@192.0.2.20:3306/nova?charset=utf8&ssl_verify_cert=true
max_overflow = 50

[api_database]
connection = mysql+pymysql://nova_api:{password}@${{service.address}}:3306/nova_api?charset=utf8&ssl_verify_cert=true&ssl_ca={ca}
"""

OPENSTACK_ANSIBLE_EXTRA = """\
[service]
address = 192.0.2.20

[DEFAULT]
long_rpc_timeout = 3600
"""


def write_kolla(folder: Path, ca: str = "/etc/ssl/certs/ca-certificates.crt") -> tuple[Path, ...]:
    """Write nova.conf of a superconductor as kolla-ansible does.

    :returns: the files
    """
    path = folder / "nova.conf"
    path.write_text(KOLLA.format(password=PASSWORD, ca=ca))
    return (path,)


def write_openstack_ansible(folder: Path, ca: str = "/etc/ssl/certs/ca-certificates.crt") -> tuple[Path, ...]:
    """Write nova.conf, and a file of an operator in nova.conf.d, as openstack-ansible does.

    :returns: the files
    """
    path, more = folder / "nova.conf", folder / "nova.conf.d"
    more.mkdir(exist_ok=True)
    path.write_text(OPENSTACK_ANSIBLE.format(password=PASSWORD, ca=ca))
    (more / "50-own.conf").write_text(OPENSTACK_ANSIBLE_EXTRA)
    return path, more
