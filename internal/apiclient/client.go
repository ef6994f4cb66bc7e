// Package apiclient calls trove-api over HTTP for people's tools: it finds the
// cloud from OS_* variables or clouds.yaml, gets a token, and turns faults into
// trove errors. It knows the wire, not the server: it shares no code with it.
package apiclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"github.com/gotrove/gotrove/internal/trove"
)

// Client calls the database API of one project.
type Client struct {
	db *gophercloud.ServiceClient
}

// New logs in. cloud names an entry of clouds.yaml; if it is empty OS_CLOUD
// does, and if that is empty too, the OS_* variables of an openrc are used. An
// error is of KindUnauthorized, KindUnavailable or KindBadRequest.
func New(ctx context.Context, cloud string) (*Client, error) {
	provider, endpoint, err := login(ctx, cloud)
	if err != nil {
		return nil, err
	}
	provider.UserAgent.Prepend("trovectl")
	db, err := openstack.NewDBV1(provider, endpoint)
	if err != nil {
		return nil, &trove.Error{Kind: trove.KindUnavailable, Err: err,
			Message: "The cloud's catalog has no service of type database in this region.",
			Action:  "Check OS_REGION_NAME and OS_INTERFACE."}
	}
	return &Client{db}, nil
}

func login(ctx context.Context, cloud string) (*gophercloud.ProviderClient, gophercloud.EndpointOpts, error) {
	var (
		auth     gophercloud.AuthOptions
		endpoint gophercloud.EndpointOpts
		provider *gophercloud.ProviderClient
		err      error
	)
	if cloud == "" {
		cloud = os.Getenv("OS_CLOUD")
	}
	if cloud != "" {
		var tls *tls.Config
		auth, endpoint, tls, err = clouds.Parse(clouds.WithCloudName(cloud))
		if err != nil {
			return nil, endpoint, &trove.Error{Kind: trove.KindBadRequest, Err: err,
				Message: "clouds.yaml cannot be used: " + err.Error()}
		}
		auth.AllowReauth = true
		provider, err = config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	} else {
		auth = fromEnvironment()
		if auth.IdentityEndpoint == "" {
			return nil, endpoint, trove.Errorf(trove.KindBadRequest, "There is no cloud to talk to: neither OS_AUTH_URL nor OS_CLOUD is set.").
				WithAction("Source an openrc (the demo's is in its data directory), or set OS_CLOUD to an entry of clouds.yaml.")
		}
		auth.AllowReauth = true
		endpoint = gophercloud.EndpointOpts{Region: os.Getenv("OS_REGION_NAME"), Availability: availability(os.Getenv("OS_INTERFACE"))}
		provider, err = config.NewProviderClient(ctx, auth)
	}
	if err != nil {
		return nil, endpoint, loginError(auth.IdentityEndpoint, err)
	}
	return provider, endpoint, nil
}

// fromEnvironment reads the variables of an openrc. Gophercloud's own reader
// does not know OS_USER_DOMAIN_NAME and OS_PROJECT_DOMAIN_NAME, which every
// openrc of Keystone v3 has.
func fromEnvironment() gophercloud.AuthOptions {
	first := func(names ...string) string {
		for _, n := range names {
			if v := os.Getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	auth := gophercloud.AuthOptions{
		IdentityEndpoint:            first("OS_AUTH_URL"),
		UserID:                      first("OS_USER_ID", "OS_USERID"),
		Username:                    first("OS_USERNAME"),
		Password:                    first("OS_PASSWORD"),
		TokenID:                     first("OS_TOKEN", "OS_AUTH_TOKEN"),
		DomainID:                    first("OS_USER_DOMAIN_ID", "OS_DOMAIN_ID", "OS_DEFAULT_DOMAIN"),
		ApplicationCredentialID:     first("OS_APPLICATION_CREDENTIAL_ID"),
		ApplicationCredentialName:   first("OS_APPLICATION_CREDENTIAL_NAME"),
		ApplicationCredentialSecret: first("OS_APPLICATION_CREDENTIAL_SECRET"),
	}
	if auth.DomainID == "" {
		auth.DomainName = first("OS_USER_DOMAIN_NAME", "OS_DOMAIN_NAME")
	}
	if auth.UserID != "" {
		auth.Username, auth.DomainID, auth.DomainName = "", "", ""
	}
	if auth.ApplicationCredentialSecret != "" {
		return auth // it is scoped already
	}
	scope := &gophercloud.AuthScope{ProjectID: first("OS_PROJECT_ID", "OS_TENANT_ID")}
	if scope.ProjectID == "" {
		scope.ProjectName = first("OS_PROJECT_NAME", "OS_TENANT_NAME")
		if scope.DomainID = first("OS_PROJECT_DOMAIN_ID", "OS_DOMAIN_ID", "OS_DEFAULT_DOMAIN"); scope.DomainID == "" {
			scope.DomainName = first("OS_PROJECT_DOMAIN_NAME", "OS_DOMAIN_NAME")
		}
	}
	if scope.ProjectID != "" || scope.ProjectName != "" {
		auth.Scope = scope
	}
	return auth
}

func availability(name string) gophercloud.Availability {
	switch strings.TrimSuffix(name, "URL") {
	case "internal":
		return gophercloud.AvailabilityInternal
	case "admin":
		return gophercloud.AvailabilityAdmin
	}
	return gophercloud.AvailabilityPublic
}

func loginError(endpoint string, err error) error {
	if code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok && code.Actual == http.StatusUnauthorized {
		return &trove.Error{Kind: trove.KindUnauthorized, Err: err,
			Message: "The identity service at " + endpoint + " does not accept these credentials.",
			Action:  "Check OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME."}
	}
	return &trove.Error{Kind: trove.KindUnavailable, Err: err,
		Message: "The identity service at " + endpoint + " cannot be used: " + err.Error(),
		Action:  "Check OS_AUTH_URL, and that the service runs."}
}

// Endpoint is the address of the API for this project.
func (c *Client) Endpoint() string { return strings.TrimSuffix(c.db.Endpoint, "/") }

// do makes one request; body and result may be nil.
func (c *Client) do(ctx context.Context, method, path string, body, result any) error {
	resp, err := c.db.Request(ctx, method, c.db.Endpoint+path, &gophercloud.RequestOpts{
		JSONBody: body, JSONResponse: result,
		OkCodes: []int{http.StatusOK, http.StatusAccepted, http.StatusNoContent},
	})
	if err != nil {
		return fault(err)
	}
	if result == nil && resp.Body != nil {
		return resp.Body.Close()
	}
	return nil
}

var kinds = map[int]trove.Kind{
	http.StatusBadRequest:            trove.KindBadRequest,
	http.StatusUnauthorized:          trove.KindUnauthorized,
	http.StatusForbidden:             trove.KindForbidden,
	http.StatusNotFound:              trove.KindNotFound,
	http.StatusConflict:              trove.KindConflict,
	http.StatusRequestEntityTooLarge: trove.KindOverLimit,
	http.StatusUnprocessableEntity:   trove.KindUnprocessable,
	http.StatusNotImplemented:        trove.KindNotImplemented,
	http.StatusServiceUnavailable:    trove.KindUnavailable,
	http.StatusBadGateway:            trove.KindUnavailable,
	http.StatusGatewayTimeout:        trove.KindUnavailable,
}

// fault turns an answer that is not a success into an error with the fault's
// own message.
func fault(err error) error {
	code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err)
	if !ok {
		return &trove.Error{Kind: trove.KindUnavailable, Err: err, Message: "The database API cannot be reached: " + err.Error()}
	}
	var body map[string]json.RawMessage
	message := ""
	if json.Unmarshal(code.Body, &body) == nil {
		var text string
		if json.Unmarshal(body["message"], &text) == nil {
			message = text // WebOb's shape, as a Python API sends it
		}
		for _, v := range body {
			var f struct {
				Message string `json:"message"`
			}
			if message == "" && json.Unmarshal(v, &f) == nil {
				message = f.Message
			}
		}
	}
	if message == "" {
		message = http.StatusText(code.Actual)
	}
	return &trove.Error{Kind: kinds[code.Actual], Message: message, Err: err}
}

func segment(s string) string { return url.PathEscape(s) }

// timestamp is the API's time: UTC, no zone.
type timestamp struct{ time.Time }

func (t *timestamp) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil || s == "" {
		return err
	}
	for _, layout := range []string{"2006-01-02T15:04:05", time.RFC3339Nano, "2006-01-02T15:04:05.999999"} {
		if parsed, err := time.Parse(layout, s); err == nil {
			t.Time = parsed
			return nil
		}
	}
	return errors.New("not a time: " + s)
}
