package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
)

// lasting is an error that trying again doesn't mend.
type lasting struct{ error }

// Unwrap implements errors.Unwrap.
func (l lasting) Unwrap() error { return l.error }

// Lasting tells whether an error of a store stays until somebody does something about it; one that doesn't may be gone when the operation is
// tried again.
func Lasting(err error) bool {
	for _, sentinel := range []error{ErrNotFound, ErrShort, ErrDenied, ErrNoBucket, ErrClockSkew} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	var l lasting
	return errors.As(err, &l)
}

// codeRange is what S3 says of a range that begins behind the end of an object.
const codeRange = "InvalidRange"

// code is S3's name of an error; "": it is not the server's.
func code(err error) string { return response(err).Code }

func response(err error) minio.ErrorResponse {
	var r minio.ErrorResponse
	errors.As(err, &r)
	if r.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		r.Code = codeRange
	}
	return r
}

// failed says what was done to which object, what an error of the server means, and what to do.
func (s *S3) failed(ctx context.Context, verb, name string, err error) error {
	what := strings.Replace(verb+" "+name+" in "+s.String(), "  ", " ", 1) // a listing may be of everything
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", what, cause)
	}
	hint, sentinel := s.meaning(err)
	if errors.Is(sentinel, ErrDenied) {
		s.keys.Expire() // whoever changed them meanwhile need not restart this process
	}
	if c := code(err); c != "" && c != err.Error() {
		hint += " (" + c + ")"
	}
	switch {
	case errors.Is(err, sentinel): // keys and ranges name theirs themselves
		return fmt.Errorf("%s: %w", what, err)
	case sentinel == errPermanent:
		return fmt.Errorf("%s: %w%s", what, lasting{err}, hint)
	case sentinel != nil:
		return fmt.Errorf("%s: %w: %w%s", what, sentinel, err, hint)
	}
	return fmt.Errorf("%s: %w%s", what, err, hint)
}

// errPermanent stands for everything that stays and has no name of its own.
var errPermanent = errors.New("permanent")

// meaning is what to do about an error, and its sentinel: errPermanent, or nil for one that passes.
func (s *S3) meaning(err error) (hint string, sentinel error) {
	for _, sentinel := range []error{ErrDenied, ErrShort} {
		if errors.Is(err, sentinel) {
			return "", sentinel
		}
	}
	r := response(err)
	switch r.Code {
	case "":
		return s.meaningOfConnection(err)
	case minio.NoSuchKey:
		return "", ErrNotFound
	case minio.NoSuchBucket:
		return fmt.Sprintf(": make the bucket %s, or name another one", s.o.Bucket), ErrNoBucket
	case codeRange:
		return "", ErrShort
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return ": set both by NTP", ErrClockSkew
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect":
		if r.Region != "" {
			return fmt.Sprintf(": set the region to %s", r.Region), errPermanent
		}
		return ": set the region, and the endpoint, that the bucket is in", errPermanent
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "InvalidToken", "ExpiredToken", "ExpiredTokenException",
		"XAdminUserNotFound": // versitygw, with a status that says not found
		return ": " + s.keysHint(), ErrDenied
	case "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody":
		return ": it was altered on its way, and refused", nil
	case "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "StorageFull", "EntityTooLarge":
		return ": make room there, or keep fewer points", errPermanent
	}
	return s.meaningOfStatus(r)
}

func (s *S3) meaningOfStatus(r minio.ErrorResponse) (hint string, sentinel error) {
	switch status := r.StatusCode; {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fmt.Sprintf(": let the credentials list the bucket %s, and get, put and delete its objects", s.o.Bucket), ErrDenied
	case status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooManyRequests, status == 499:
		return "", nil
	case status == http.StatusBadRequest && strings.Contains(r.Message, "HTTP request to an HTTPS server"):
		return ": the server wants TLS; set insecure to false", errPermanent
	case status >= 300 && status < 500, status == http.StatusNotImplemented:
		return "", errPermanent
	}
	return "", nil
}

func (s *S3) meaningOfConnection(err error) (hint string, sentinel error) {
	var (
		authority   x509.UnknownAuthorityError
		certificate x509.CertificateInvalidError
		host        x509.HostnameError
	)
	switch {
	case errors.As(err, &authority):
		return ": name the bundle with its authority as caFile", errPermanent
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		return ": renew the server's certificate, or set this machine's clock right", errPermanent
	case errors.As(err, &certificate), errors.As(err, &host):
		return ": the server's certificate is for something else; check the endpoint", errPermanent
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return ": the server doesn't speak TLS; set insecure to true, or the right port", errPermanent
	}
	return "", nil
}

func (s *S3) keysHint() string {
	if s.o.Credentials != "" {
		return "put valid keys into " + s.o.Credentials
	}
	return "name a file with valid keys as credentials, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
}

// responseLength is how many bytes a response has, which must begin at first where a range was asked for.
func responseLength(header http.Header, ranged bool, first int64) (int64, error) {
	if ranged {
		if got := header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", first)) {
			return 0, lasting{fmt.Errorf("asked for the bytes from %d on the server sends %q: it can't be used", first, got)}
		}
	}
	n, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		return 0, lasting{fmt.Errorf("the server doesn't say how much it sends: %w", err)}
	}
	return n, nil
}
