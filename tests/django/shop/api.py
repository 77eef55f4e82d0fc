"""The REST side. None of these views sets a caching header of its own: all one sees comes from the framework."""

from rest_framework import serializers, viewsets
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.response import Response

from .models import Product


class ProductSerializer(serializers.ModelSerializer):
    # Absolute, built from the Host header, and copied into Location after a POST.
    url = serializers.HyperlinkedIdentityField(view_name="product-detail")

    class Meta:
        model = Product
        fields = ["id", "url", "name", "price"]


class ProductViewSet(viewsets.ModelViewSet):
    queryset = Product.objects.all()
    serializer_class = ProductSerializer


def describe_user(request):
    if not request.user.is_authenticated:
        return Response({"username": None})
    return Response({"username": request.user.username, "secret": f"for the eyes of {request.user.username} only"})


@api_view(["GET"])
@authentication_classes([TokenAuthentication])
@permission_classes([IsAuthenticated])
def me_by_token(request):
    return describe_user(request)


@api_view(["GET"])
@authentication_classes([SessionAuthentication])
@permission_classes([IsAuthenticated])
def me_by_session(request):
    return describe_user(request)


@api_view(["GET"])
@permission_classes([AllowAny])
def who_am_i(request):
    """One URL for anonymous visitors, sessions and tokens alike: the token answer does not vary on Cookie."""
    return describe_user(request)
