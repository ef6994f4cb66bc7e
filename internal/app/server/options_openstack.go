package server

import (
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// openstackOptions say how the cloud is reached and what instances get there:
// names and defaults are the original's where it has the option.
type openstackOptions struct {
	AuthURL           string        `conf:"service_credentials.auth_url" default:"https://0.0.0.0/identity/v3" deprecated:"DEFAULT.trove_auth_url" help:"Keystone's URL for the service's own calls to the cloud."`
	AuthType          string        `conf:"service_credentials.auth_type" default:"password" help:"password or v3applicationcredential."`
	Username          string        `conf:"service_credentials.username" default:"" deprecated:"DEFAULT.nova_proxy_admin_user" help:"Whom servers, ports and volumes are made by."`
	UserID            string        `conf:"service_credentials.user_id" default:"" help:"Instead of username and its domain."`
	Password          secret.String `conf:"service_credentials.password" deprecated:"DEFAULT.nova_proxy_admin_pass" help:"Of username."`
	UserDomainID      string        `conf:"service_credentials.user_domain_id" default:"" help:"Domain of username, instead of its name."`
	UserDomainName    string        `conf:"service_credentials.user_domain_name" default:"Default" deprecated:"DEFAULT.nova_proxy_admin_user_domain_name" help:"Domain of username."`
	ProjectID         string        `conf:"service_credentials.project_id" default:"" deprecated:"DEFAULT.nova_proxy_admin_tenant_id" help:"The project that owns servers, ports and volumes; its quotas are those that count."`
	ProjectName       string        `conf:"service_credentials.project_name" default:"" deprecated:"DEFAULT.nova_proxy_admin_tenant_name" help:"Instead of project_id."`
	ProjectDomainID   string        `conf:"service_credentials.project_domain_id" default:"" help:"Domain of project_name, instead of its name."`
	ProjectDomainName string        `conf:"service_credentials.project_domain_name" default:"Default" deprecated:"DEFAULT.nova_proxy_admin_project_domain_name" help:"Domain of project_name."`
	CredentialID      string        `conf:"service_credentials.application_credential_id" default:"" help:"Of an application credential, with auth_type v3applicationcredential."`
	CredentialName    string        `conf:"service_credentials.application_credential_name" default:"" help:"Instead of application_credential_id; username and its domain are needed then."`
	CredentialSecret  secret.String `conf:"service_credentials.application_credential_secret" help:"Its secret."`
	Region            string        `conf:"service_credentials.region_name" default:"RegionOne" deprecated:"DEFAULT.os_region_name" help:"Region whose services are used, and that instances are shown in. Empty: any."`
	CAFile            string        `conf:"service_credentials.cafile" default:"" help:"CA certificates, in PEM, that sign those of the cloud's services; the system's if empty."`
	CertFile          string        `conf:"service_credentials.certfile" default:"" help:"Certificate, in PEM, that the service shows the cloud's services."`
	KeyFile           string        `conf:"service_credentials.keyfile" default:"" help:"Its key; certfile if empty."`
	Insecure          bool          `conf:"service_credentials.insecure" default:"false" help:"The certificates of the cloud's services are not checked."`
	Timeout           time.Duration `conf:"service_credentials.timeout" default:"60" help:"How long a service of the cloud may take to answer one request, in seconds."`

	NovaURL          string `conf:"DEFAULT.nova_compute_url" default:"" help:"Nova's URL, instead of the catalog's; project_id is put behind it if it is set."`
	NovaType         string `conf:"DEFAULT.nova_compute_service_type" default:"compute" help:"Type in the catalog."`
	NovaInterface    string `conf:"DEFAULT.nova_compute_endpoint_type" default:"publicURL" help:"publicURL, internalURL or adminURL."`
	NovaInsecure     bool   `conf:"DEFAULT.nova_api_insecure" default:"false" help:"Nova's certificate is not checked."`
	NovaVersion      string `conf:"DEFAULT.nova_client_version" default:"2.57" help:"Microversion to use; an older one than 2.57 counts as 2.57. Where Nova has only older ones, its newest is used."`
	NeutronURL       string `conf:"DEFAULT.neutron_url" default:"" help:"Neutron's URL, instead of the catalog's."`
	NeutronType      string `conf:"DEFAULT.neutron_service_type" default:"network" help:"Type in the catalog."`
	NeutronInterface string `conf:"DEFAULT.neutron_endpoint_type" default:"publicURL" help:"publicURL, internalURL or adminURL."`
	NeutronInsecure  bool   `conf:"DEFAULT.neutron_api_insecure" default:"false" help:"Neutron's certificate is not checked."`
	CinderURL        string `conf:"DEFAULT.cinder_url" default:"" help:"Cinder's URL, instead of the catalog's; project_id is put behind it if it is set."`
	CinderType       string `conf:"DEFAULT.cinder_service_type" default:"volumev3" help:"Type in the catalog."`
	CinderInterface  string `conf:"DEFAULT.cinder_endpoint_type" default:"publicURL" help:"publicURL, internalURL or adminURL."`
	CinderInsecure   bool   `conf:"DEFAULT.cinder_api_insecure" default:"false" help:"Cinder's certificate is not checked."`
	GlanceURL        string `conf:"DEFAULT.glance_url" default:"" help:"Glance's URL, instead of the catalog's."`
	GlanceType       string `conf:"DEFAULT.glance_service_type" default:"image" help:"Type in the catalog."`
	GlanceInterface  string `conf:"DEFAULT.glance_endpoint_type" default:"publicURL" help:"publicURL, internalURL or adminURL."`

	ManagementNetworks []string `conf:"DEFAULT.management_networks" default:"" deprecated:"DEFAULT.default_neutron_networks" help:"Ids of networks by which agents reach the message bus: each instance gets a port on the last of them, as its last interface."`
	ManagementGroups   []string `conf:"DEFAULT.management_security_groups" default:"" help:"Ids of the security groups of those ports; the instance's own if empty."`
	SecurityGroups     bool     `conf:"DEFAULT.trove_security_groups_support" default:"true" help:"Each instance gets a security group that opens its engine's port."`
	GroupPrefix        string   `conf:"DEFAULT.trove_security_group_name_prefix" default:"trove_sg" help:"Security groups are called <prefix>-<instance id>."`
	ReservedCIDRs      []string `conf:"DEFAULT.reserved_network_cidrs" default:"" help:"Ranges that a user's network may not overlap with, beside those of the management network."`
	Isolation          bool     `conf:"network.network_isolation" default:"false" help:"The user's port is the database's container's and not the server's: users reach nothing but the database, it reaches nothing of the management network, and their networks may overlap with that one. The original's default is true."`
	DockerBridge       string   `conf:"DEFAULT.docker_bridge_network_ip" default:"" help:"Address and range of Docker's bridge on servers that have no isolated port, such as 192.168.200.1/24; Docker's default if empty."`
	InsecureRegistries []string `conf:"DEFAULT.docker_insecure_registries" default:"" help:"Registries that Docker on servers asks without TLS."`
	PublicNetwork      string   `conf:"network.public_network_id" default:"" help:"Where floating IPs are from; the first external network if empty."`
	AccessCheck        bool     `conf:"network.enable_access_check" default:"true" help:"A user's subnet must have a router. One that is to be reached from outside must have it anyway."`

	KeyPair       string `conf:"DEFAULT.nova_keypair" default:"" help:"Key pair of the service's user that is put into servers."`
	ConfigDrive   bool   `conf:"DEFAULT.use_nova_server_config_drive" default:"false" help:"Servers get their files by a config drive, not only by the metadata service."`
	VolumeType    string `conf:"DEFAULT.cinder_volume_type" default:"" help:"Type of volumes where a request names none; Cinder's default if empty."`
	VolumeInZone  bool   `conf:"DEFAULT.enable_volume_az" default:"false" help:"Volumes are made in the availability zone that the request names."`
	OnlineGrow    bool   `conf:"DEFAULT.online_volume_resize" default:"true" help:"Volumes are extended while they are attached; else they are detached first."`
	RootVolume    bool   `conf:"DEFAULT.volume_rootdisk_support" default:"false" help:"Must be false: servers that boot from a volume are not built yet."`
	FileOwner     string `conf:"DEFAULT.injected_config_owner" default:"ubuntu" help:"Owner of the agent's files on the server, a user of the image."`
	FileGroup     string `conf:"DEFAULT.injected_config_group" default:"root" help:"Their group."`
	CloudInitPath string `conf:"DEFAULT.cloudinit_location" default:"/etc/trove/cloudinit" help:"Directory with what servers do at their first boot beside: <manager>.cloudinit for each datastore manager. It may be missing."`
}

// cloud makes the options of the cloud.
func (o *openstackOptions) cloud() (openstack.Options, error) {
	wrong := func(format string, args ...any) error {
		return trove.Errorf(trove.KindBadRequest, "[service_credentials] "+format, args...)
	}
	c := openstack.Options{AuthURL: o.AuthURL, Username: o.Username, UserID: o.UserID, UserDomainID: o.UserDomainID, UserDomainName: o.UserDomainName,
		Region: o.Region, CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile, Insecure: o.Insecure, Timeout: o.Timeout,
		Compute:     openstack.Endpoint{URL: o.NovaURL, Type: o.NovaType, Interface: o.NovaInterface, Insecure: o.NovaInsecure},
		Network:     openstack.Endpoint{URL: o.NeutronURL, Type: o.NeutronType, Interface: o.NeutronInterface, Insecure: o.NeutronInsecure},
		Volume:      openstack.Endpoint{URL: o.CinderURL, Type: o.CinderType, Interface: o.CinderInterface, Insecure: o.CinderInsecure},
		Image:       openstack.Endpoint{URL: o.GlanceURL, Type: o.GlanceType, Interface: o.GlanceInterface},
		NovaVersion: o.NovaVersion, ManagementNetworks: o.ManagementNetworks, ManagementGroups: o.ManagementGroups,
		NoSecurityGroups: !o.SecurityGroups, GroupPrefix: o.GroupPrefix, ReservedCIDRs: o.ReservedCIDRs, Isolation: o.Isolation, DockerBridge: o.DockerBridge, InsecureRegistries: o.InsecureRegistries,
		PublicNetwork: o.PublicNetwork, AccessCheck: o.AccessCheck, KeyPair: o.KeyPair, ConfigDrive: o.ConfigDrive,
		VolumeType: o.VolumeType, VolumeInZone: o.VolumeInZone, OfflineGrow: !o.OnlineGrow, RootVolume: o.RootVolume, CloudInitDir: o.CloudInitPath}
	if o.FileOwner != "" {
		c.FileOwner = o.FileOwner + ":" + o.FileGroup
	}
	switch o.AuthType {
	case "password", "v3password":
		if o.Username == "" && o.UserID == "" {
			return c, wrong("username is needed, for the user that makes servers, ports and volumes")
		}
		c.Password, c.ProjectID, c.ProjectName = o.Password, o.ProjectID, o.ProjectName
		c.ProjectDomainID, c.ProjectDomainName = o.ProjectDomainID, o.ProjectDomainName
		if o.ProjectID == "" && o.ProjectName == "" {
			return c, wrong("project_id or project_name is needed, of the project that owns servers, ports and volumes")
		}
	case "applicationcredential", "v3applicationcredential":
		c.CredentialID, c.CredentialName, c.CredentialSecret = o.CredentialID, o.CredentialName, o.CredentialSecret
		if o.CredentialID == "" && o.CredentialName == "" {
			return c, wrong("application_credential_id is needed")
		}
	default:
		return c, wrong("auth_type: %q is not password, v3password or v3applicationcredential", o.AuthType)
	}
	return c, nil
}

// newOpenStack is the operator's region as a cloud. It asks it nothing yet.
func (p *process) newOpenStack() (*openstack.Cloud, error) {
	o, err := p.c.OpenStack.cloud()
	if err != nil {
		return nil, err
	}
	o.Log = p.log
	return openstack.New(o)
}
