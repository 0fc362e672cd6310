-- The rights of cellmove's own database user, and no more. cellmove logs in with it when CELLMOVE_DATABASE_USER and
-- CELLMOVE_DATABASE_PASSWORD (or database_user and database_password in config.toml) are set.
--
-- nova_api, nova_cell0 and nova_cell1 stand for the databases of your cloud. Repeat the statements about nova_cell1 for every other
-- cell, and leave out those about tables that your release no longer has. A journal that machines share needs a database of its
-- own; see docs/journal.md.

-- The API database: where each server is, and which cell the scheduler leaves out while drain-cell empties it.
GRANT SELECT ON nova_api.* TO 'cellmove'@'%';
GRANT UPDATE ON nova_api.instance_mappings TO 'cellmove'@'%';
GRANT UPDATE ON nova_api.request_specs TO 'cellmove'@'%';
GRANT UPDATE (disabled) ON nova_api.cell_mappings TO 'cellmove'@'%';

-- cell0: which services of the API level are alive.
GRANT SELECT ON nova_cell0.* TO 'cellmove'@'%';

-- Every cell: the rows of a server are copied, changed and removed.
GRANT SELECT ON nova_cell1.* TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.block_device_mapping TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.instance_actions TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.instance_actions_events TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.instance_extra TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.instance_system_metadata TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.instances TO 'cellmove'@'%';
GRANT INSERT, UPDATE, DELETE ON nova_cell1.migrations TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.instance_faults TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.instance_id_mappings TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.instance_info_caches TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.instance_metadata TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.tags TO 'cellmove'@'%';
GRANT INSERT, DELETE ON nova_cell1.virtual_interfaces TO 'cellmove'@'%';
GRANT DELETE ON nova_cell1.console_auth_tokens TO 'cellmove'@'%';
GRANT DELETE ON nova_cell1.consoles TO 'cellmove'@'%';
GRANT DELETE ON nova_cell1.security_group_instance_association TO 'cellmove'@'%';
