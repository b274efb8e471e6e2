package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The application's objects.
const (
	teller   = "teller"  // Deployment, Service and ServiceAccount
	limits   = "limits"  // ConfigMap that changes as long as the load runs
	tariffs  = "tariffs" // ConfigMap that is deleted by mistake
	keys     = "keys"    // Secret
	replicas = 2         // of the Deployment
)

// application is the part of the bank that lives in the API server: its objects, and the limit that the ledger works below.
//
// The ledger books transfer n only once the ConfigMap allows n: config first, row second. With each change the ConfigMap also says how
// many debits the ledger had acknowledged: row first, config second. So in a consistent cut booked <= debits <= allowed.
type application struct {
	client    kubernetes.Interface
	namespace string
	secret    string
	booked    func() int64 // debits that the ledger acknowledged
	step      int64        // transfers that one change allows

	allowed atomic.Int64
	want    chan struct{}
	ended   chan struct{}

	mu      sync.Mutex
	raised  chan struct{} // closed when allowed grows
	changes []limitChange
}

// limitChange is one change of the ConfigMap; done is zero where the API server didn't confirm it.
type limitChange struct {
	begun, done     time.Time
	allowed, booked int64
}

func newApplication(c *clusters, rate float64, booked func() int64) *application {
	return &application{
		client: c.primary.client, namespace: c.namespace, secret: rand.Text(), booked: booked,
		step: max(1, int64(rate/8)), want: make(chan struct{}, 1), ended: make(chan struct{}), raised: make(chan struct{}),
	}
}

// install makes the objects. external tells whether the Service may ask for a load balancer: one of somebody's cloud costs.
func (a *application) install(ctx context.Context, external bool) error {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": teller}}
	}
	create := metav1.CreateOptions{}
	core := a.client.CoreV1()
	service := corev1.ServiceSpec{Selector: map[string]string{"app": teller}, Ports: []corev1.ServicePort{{Port: 80}}}
	if external {
		service.Type = corev1.ServiceTypeLoadBalancer
	}
	for _, make := range []func() error{
		func() error {
			_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta(a.namespace)}, create)
			return err
		},
		func() error {
			_, err := core.ServiceAccounts(a.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta(teller)}, create)
			return err
		},
		func() error {
			data := map[string]string{"allowed": "0", "booked": "0"}
			_, err := core.ConfigMaps(a.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(limits), Data: data}, create)
			return err
		},
		func() error {
			data := map[string]string{"transfer": "0.25", "overdraft": "12.5"}
			_, err := core.ConfigMaps(a.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(tariffs), Data: data}, create)
			return err
		},
		func() error {
			data := map[string][]byte{"signing": []byte(a.secret)}
			_, err := core.Secrets(a.namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta(keys), Data: data}, create)
			return err
		},
		func() error {
			_, err := core.Services(a.namespace).Create(ctx, &corev1.Service{ObjectMeta: meta(teller), Spec: service}, create)
			return err
		},
		func() error {
			_, err := a.client.AppsV1().Deployments(a.namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta(teller), Spec: deployment()}, create)
			return err
		},
	} {
		if err := make(); err != nil {
			return fmt.Errorf("install the application: %w", err)
		}
	}
	return nil
}

func deployment() appsv1.DeploymentSpec {
	n, labels := int32(replicas), map[string]string{"app": teller}
	from := func(name string) corev1.VolumeMount { return corev1.VolumeMount{Name: name, MountPath: "/" + name} }
	config := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
		}}
	}
	return appsv1.DeploymentSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{
				ServiceAccountName: teller,
				Containers: []corev1.Container{{
					Name: teller, Image: "registry.k8s.io/pause:3.10", VolumeMounts: []corev1.VolumeMount{from(limits), from(tariffs), from(keys)},
				}},
				Volumes: []corev1.Volume{config(limits), config(tariffs), {Name: keys, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: keys}}}},
			},
		},
	}
}

// run raises the limit whenever the ledger comes near it, until ctx ends, which is no error.
func (a *application) run(ctx context.Context) error {
	defer close(a.ended)
	for {
		if err := a.raise(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("change ConfigMap %s: %w", limits, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.want:
		}
	}
}

// raise changes the ConfigMap, and allows what it says once the API server has confirmed it.
func (a *application) raise(ctx context.Context) error {
	c := limitChange{begun: time.Now(), booked: a.booked(), allowed: a.allowed.Load() + a.step}
	a.mu.Lock()
	a.changes = append(a.changes, c)
	i := len(a.changes) - 1
	a.mu.Unlock()
	patch := fmt.Appendf(nil, `{"data":{"allowed":"%d","booked":"%d"}}`, c.allowed, c.booked)
	if _, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(ctx, limits, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes[i].done = time.Now()
	a.allowed.Store(c.allowed)
	close(a.raised)
	a.raised = make(chan struct{})
	return nil
}

// errNoLimit tells that nobody raises the limit any more.
var errNoLimit = errors.New("the limit is not raised any more")

// gate waits until the ConfigMap allows a transfer.
func (a *application) gate(ctx context.Context, id int64) error {
	for {
		a.mu.Lock()
		raised := a.raised
		a.mu.Unlock()
		allowed := a.allowed.Load()
		if id > allowed-a.step/2 {
			select {
			case a.want <- struct{}{}:
			default:
			}
		}
		if id <= allowed {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ended:
			return errNoLimit
		case <-raised:
		}
	}
}

// mistake deletes an object that the application needs.
func (a *application) mistake(ctx context.Context) error {
	return a.client.CoreV1().ConfigMaps(a.namespace).Delete(ctx, tariffs, metav1.DeleteOptions{})
}

// around returns the newest limit that the API server had confirmed by t, the newest that was asked for by then, and how many changes
// there were in all.
func (a *application) around(t time.Time) (confirmed, asked int64, changes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.changes {
		if !c.done.IsZero() && !c.done.After(t) {
			confirmed = c.allowed
		}
		if !c.begun.After(t) {
			asked = c.allowed
		}
	}
	return confirmed, asked, len(a.changes)
}

// limit is what a ConfigMap says.
type limit struct{ allowed, booked int64 }

func limitOf(data map[string]string) (l limit, err error) {
	if l.allowed, err = strconv.ParseInt(data["allowed"], 10, 64); err == nil {
		l.booked, err = strconv.ParseInt(data["booked"], 10, 64)
	}
	return l, err
}
